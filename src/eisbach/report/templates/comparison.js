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
  if (window.matchMedia("(max-width: 46rem)").matches) {  // a phone shows the first group; the others are a touch away
    Array.prototype.forEach.call(document.querySelectorAll("#listen .wide > details"), function (group, index) { group.open = index === 0; });
  }
  var toggle = document.querySelector("button.toggle");
  if (toggle) {
    toggle.hidden = false;
    toggle.addEventListener("click", function () {
      var all = Array.prototype.slice.call(document.querySelectorAll("#listen details"));
      var open = all.some(function (one) { return !one.open; });
      all.forEach(function (one) { one.open = open; });
      toggle.textContent = open ? "Close all groups" : "Open all groups";
    });
  }
})();
(function () {
  "use strict";
  function each(list, act) { Array.prototype.forEach.call(list, act); }
  each(document.querySelectorAll(".player"), function (box) {
    var audio = box.querySelector("audio"), wave = box.querySelector(".wave"), head = box.querySelector(".head");
    var buttons = Array.prototype.slice.call(box.querySelectorAll(".sections button"));
    var seconds = parseFloat(box.getAttribute("data-seconds")) || 1;
    function show() {
      var now = audio.currentTime;
      head.style.left = Math.min(100, 100 * now / seconds) + "%";
      buttons.forEach(function (button) {
        var inside = now >= parseFloat(button.getAttribute("data-start")) && now < parseFloat(button.getAttribute("data-end"));
        if (inside && box.classList.contains("started")) { button.setAttribute("aria-current", "true"); }
        else { button.removeAttribute("aria-current"); }
      });
    }
    function follow() { show(); if (!audio.paused) { window.requestAnimationFrame(follow); } }
    function jump(to, play) {
      box.classList.add("started");
      function go() { audio.currentTime = to; show(); if (play) { audio.play(); } }
      if (audio.readyState > 0) { go(); }
      else { audio.addEventListener("loadedmetadata", go, { once: true }); audio.preload = "auto"; audio.load(); }
    }
    audio.addEventListener("play", function () { box.classList.add("started"); follow(); });
    ["timeupdate", "seeked", "pause", "ended"].forEach(function (name) { audio.addEventListener(name, show); });
    wave.addEventListener("click", function (event) {
      var area = wave.getBoundingClientRect();
      jump(seconds * (event.clientX - area.left) / area.width, true);
    });
    buttons.forEach(function (button) {
      button.addEventListener("click", function () { jump(parseFloat(button.getAttribute("data-start")), true); });
    });
    each(box.querySelectorAll(".sections"), function (line) {
      var own = Array.prototype.slice.call(line.querySelectorAll("button"));
      own.forEach(function (button, index) {
        button.addEventListener("keydown", function (event) {
          var step = { ArrowRight: 1, ArrowLeft: -1, Home: -index, End: own.length - 1 - index }[event.key];
          if (step === undefined) { return; }
          event.preventDefault();
          var next = own[Math.max(0, Math.min(own.length - 1, index + step))];
          own.forEach(function (other) { other.tabIndex = other === next ? 0 : -1; });
          next.focus();
        });
      });
    });
  });
})();
