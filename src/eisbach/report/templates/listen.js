(function () {
  "use strict";
  var HEARD = 3; // seconds of each side before a pair can be answered
  var test = JSON.parse(document.getElementById("data").textContent);
  var post = document.getElementById("program").getAttribute("data-post");
  var place = "eisbach-listen-" + test.test;
  function $(id) { return document.getElementById(id); }
  function random() { var n = new Uint32Array(1); window.crypto.getRandomValues(n); return n[0] / 4294967296; }
  function shuffled(list) {
    var result = list.slice();
    for (var i = result.length - 1; i > 0; i--) {
      var j = Math.floor(random() * (i + 1)), held = result[i];
      result[i] = result[j]; result[j] = held;
    }
    return result;
  }
  // A pair that is heard again comes later than its first time, with sides changed.
  function laidOut() {
    var order = shuffled(test.trials.filter(function (trial) { return !trial.after; }));
    var sides = {};
    var rows = order.map(function (trial) {
      var turned = random() < 0.5;
      sides[trial.id] = turned;
      return { trial: trial.id, A: turned ? trial.b : trial.a, B: turned ? trial.a : trial.b };
    });
    shuffled(test.trials.filter(function (trial) { return trial.after; })).forEach(function (trial) {
      var first = rows.findIndex(function (row) { return row.trial === trial.after; });
      var from = Math.min(rows.length, first + 3), at = from + Math.floor(random() * (rows.length - from + 1));
      var turned = !sides[trial.after];
      rows.splice(at, 0, { trial: trial.id, A: turned ? trial.b : trial.a, B: turned ? trial.a : trial.b });
    });
    return rows.map(function (row) {
      return { trial: row.trial, A: row.A, B: row.B, answers: {}, heard: { A: 0, B: 0 }, seconds: 0 };
    });
  }
  function token() { return Math.floor(random() * 4294967296).toString(16) + Math.floor(random() * 4294967296).toString(16); }
  function fresh() { return { format: "eisbach-votes", version: 1, test: test.test, listener: token(), at: -1, pairs: laidOut() }; }
  function load() {
    try {
      var state = JSON.parse(window.localStorage.getItem(place));
      return state && state.test === test.test && state.pairs.length === test.trials.length ? state : fresh();
    } catch (error) { return fresh(); }
  }
  function keep() { try { window.localStorage.setItem(place, JSON.stringify(state)); } catch (error) { /* private window: answers last as long as the page */ } }

  if (post) { $("sends").textContent = "At the end they go to the computer that serves this page, and nowhere else."; }
  var state = load(), began = 0, saved = true;
  var players = { A: $("side-A").querySelector("audio"), B: $("side-B").querySelector("audio") };
  function row() { return state.pairs[state.at]; }
  function show(name) { ["intro", "pair", "end"].forEach(function (part) { $(part).hidden = part !== name; }); }
  function pause() { players.A.pause(); players.B.pause(); }
  function toggle(side) {
    var player = players[side], other = players[side === "A" ? "B" : "A"];
    other.pause();
    if (player.paused) { player.play().catch(function () { $("missing").textContent = "The sound of " + side + " cannot be played; is the folder whole?"; }); } else { player.pause(); }
  }
  function still() {
    var missing = [], pair = row();
    ["A", "B"].forEach(function (side) { if (pair.heard[side] < HEARD) { missing.push("hear " + side); } });
    test.questions.forEach(function (question) { if (!pair.answers[question.name]) { missing.push("answer “" + question.text + "”"); } });
    return missing;
  }
  function refresh() { $("next").setAttribute("aria-disabled", String(still().length > 0)); }
  function enter(index) {
    pause();
    state.at = index;
    keep();
    if (index >= state.pairs.length) { finish(); return; }
    show("pair");
    var pair = row();
    $("test-h").textContent = "Pair " + (index + 1) + " of " + state.pairs.length;
    $("where").textContent = state.pairs.length - index + " to go";
    $("progress").value = index;
    $("missing").textContent = "";
    $("back").disabled = index === 0;
    $("next").textContent = index + 1 === state.pairs.length ? "Finish" : "Next pair";
    ["A", "B"].forEach(function (side) { players[side].src = test.sounds[pair[side]]; });
    Array.prototype.forEach.call(document.querySelectorAll("#answers input"), function (input) { input.checked = pair.answers[input.name] === input.value; });
    began = Date.now();
    refresh();
    $("test-h").focus({ preventScroll: false });
  }
  function leave(to) { row().seconds = Math.round(10 * (row().seconds + (Date.now() - began) / 1000)) / 10; enter(to); }
  function next() {
    var missing = still();
    if (missing.length) { $("missing").textContent = "Still to do: " + missing.join(", ") + "."; return; }
    leave(state.at + 1);
  }
  function votes() {
    var result = JSON.parse(JSON.stringify(state));
    delete result.at;
    result.pairs = result.pairs.filter(function (pair) { return Object.keys(pair.answers).length; });
    return result;
  }
  function finish() {
    show("end");
    saved = false;
    $("test-h").textContent = "Done";
    $("text").value = JSON.stringify(votes(), null, 1);
    $("test-h").focus();
    if (post) {
      window.fetch(post, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(votes()) })
        .then(function (reply) { if (!reply.ok) { throw new Error(String(reply.status)); } saved = true; $("sent").textContent = "Your answers have arrived."; })
        .catch(function (error) { $("sent").textContent = "Your answers could not be sent (" + error.message + "); save them instead."; });
    }
  }
  ["A", "B"].forEach(function (side) {
    var player = players[side], box = $("side-" + side), button = box.querySelector("button"), last = 0;
    button.addEventListener("click", function () { toggle(side); });
    player.addEventListener("play", function () { last = player.currentTime; box.classList.add("playing"); button.textContent = "Stop " + side; button.setAttribute("aria-pressed", "true"); });
    player.addEventListener("pause", function () { box.classList.remove("playing"); button.textContent = "Play " + side; button.setAttribute("aria-pressed", "false"); keep(); });
    player.addEventListener("timeupdate", function () {
      var step = player.currentTime - last;
      last = player.currentTime;
      if (step > 0 && step < 2 && state.at >= 0 && row()) { row().heard[side] = Math.round(100 * (row().heard[side] + step)) / 100; refresh(); }
      box.querySelector(".line span").style.width = (player.duration ? 100 * player.currentTime / player.duration : 0) + "%";
    });
  });
  $("answers").addEventListener("change", function (event) { row().answers[event.target.name] = event.target.value; keep(); refresh(); });
  $("answers").addEventListener("submit", function (event) { event.preventDefault(); next(); });
  $("begin").addEventListener("click", function () { enter(Math.max(0, state.at)); });
  $("back").addEventListener("click", function () { if (state.at > 0) { leave(state.at - 1); } });
  $("back-end").addEventListener("click", function () { enter(state.pairs.length - 1); });
  $("save").addEventListener("click", function () {
    var link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(votes(), null, 1)], { type: "application/json" }));
    link.download = "votes-" + state.listener + ".json";
    link.click();
    saved = true;
    $("sent").textContent = "Saved as " + link.download + ".";
  });
  document.addEventListener("keydown", function (event) {
    if ($("pair").hidden || event.ctrlKey || event.metaKey || event.altKey) { return; }
    var key = event.key.toLowerCase();
    if (key === "1" || key === "2") { event.preventDefault(); toggle(key === "1" ? "A" : "B"); return; }
    if (key === "backspace") { event.preventDefault(); $("back").click(); return; }
    if (key === "enter" && event.target.tagName !== "BUTTON") { event.preventDefault(); next(); return; }
    var value = { a: "A", n: "none", b: "B" }[key];
    if (!value) { return; }
    var open = test.questions.find(function (question) { return !row().answers[question.name]; });
    if (open) { document.querySelector("input[name='" + open.name + "'][value='" + value + "']").click(); }
  });
  window.addEventListener("beforeunload", function (event) { if (!saved) { event.preventDefault(); } });
  if (state.at >= 0) { $("begin").textContent = state.at < state.pairs.length ? "Go on with pair " + (state.at + 1) : "Back to your answers"; }
})();
