(function () {
  "use strict";
  var players = Array.prototype.slice.call(document.querySelectorAll("audio"));
  players.forEach(function (player) {
    player.addEventListener("play", function () {
      players.forEach(function (other) { if (other !== player) { other.pause(); } });
      player.closest(".card").classList.add("playing");
    });
    player.addEventListener("pause", function () { player.closest(".card").classList.remove("playing"); });
  });
  Array.prototype.forEach.call(document.querySelectorAll("button.queue"), function (button) {
    button.hidden = false;
    button.addEventListener("click", function () {
      var row = document.getElementById(button.getAttribute("aria-controls"));
      var queue = Array.prototype.slice.call(row.querySelectorAll("audio"));
      queue.forEach(function (player, index) {
        player.currentTime = 0;
        player.onended = function () { player.onended = null; if (queue[index + 1]) { queue[index + 1].play(); } };
      });
      if (queue.length) { queue[0].play(); }
    });
  });
  var toggle = document.querySelector("button.toggle");
  if (toggle) {
    toggle.hidden = false;
    toggle.addEventListener("click", function () {
      var all = Array.prototype.slice.call(document.querySelectorAll("#listen details"));
      var open = all.some(function (one) { return !one.open; });
      all.forEach(function (one) { one.open = open; });
      toggle.textContent = open ? "Close all prompts" : "Open all prompts";
    });
  }
})();
