"use strict";
// One sound at a time.
document.addEventListener("play", function (event) {
  Array.prototype.forEach.call(document.querySelectorAll("audio"), function (player) { if (player !== event.target) { player.pause(); } });
}, true);
// The page asks for itself and takes over what changed: places, open parts and playing sounds stay as they are.
function watch(every) {
  function take(text) {
    var fresh = new DOMParser().parseFromString(text, "text/html");
    Array.prototype.forEach.call(fresh.querySelectorAll("[data-live]"), function (part) {
      var old = document.getElementById(part.id);
      if (old && old.innerHTML !== part.innerHTML) { old.innerHTML = part.innerHTML; }
    });
    Array.prototype.forEach.call(fresh.querySelectorAll("[data-demos]"), function (part) {
      var old = document.getElementById(part.id);
      if (!old) { return; }
      var heard = part.querySelectorAll("audio").length, playing = old.querySelector("audio") && Array.prototype.some.call(old.querySelectorAll("audio"), function (player) { return !player.paused; });
      if (heard !== old.querySelectorAll("audio").length && !playing) { old.innerHTML = part.innerHTML; }
    });
    Array.prototype.forEach.call(fresh.querySelectorAll("[data-calm]"), function (part) {
      var old = document.getElementById(part.id);
      if (!old || old.innerHTML === part.innerHTML || old.contains(document.activeElement)) { return; }
      if (!Array.prototype.some.call(old.querySelectorAll("audio"), function (player) { return !player.paused; })) { old.innerHTML = part.innerHTML; }
    });
    if (fresh.querySelectorAll(".run").length !== document.querySelectorAll(".run").length) { window.location.reload(); }
  }
  function ask() {
    window.fetch(window.location.href, { cache: "no-store" })
      .then(function (reply) { if (!reply.ok) { throw new Error(String(reply.status)); } return reply.text(); })
      .then(function (text) { take(text); say("This page keeps itself up to date."); })
      .catch(function () { say("The program behind this page does not answer; what is shown is what it last said."); });
  }
  function say(text) { var line = document.getElementById("connection"); if (line.textContent !== text) { line.textContent = text; } }
  window.setInterval(ask, every);
}
