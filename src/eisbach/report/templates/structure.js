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
    buttons.forEach(function (button, index) {
      button.addEventListener("click", function () { jump(parseFloat(button.getAttribute("data-start")), true); });
      button.addEventListener("keydown", function (event) {
        var step = { ArrowRight: 1, ArrowLeft: -1, Home: -index, End: buttons.length - 1 - index }[event.key];
        if (step === undefined) { return; }
        event.preventDefault();
        var next = buttons[Math.max(0, Math.min(buttons.length - 1, index + step))];
        buttons.forEach(function (other) { other.tabIndex = other === next ? 0 : -1; });
        next.focus();
      });
    });
  });
})();
