(function () {
  "use strict";
  var form = document.getElementById("filters");
  function open(element) {
    for (var at = element; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  }
  function follow() {
    var target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target) { open(target); target.scrollIntoView(); }
  }
  window.addEventListener("hashchange", follow);
  if (location.hash) follow();
  if (!form) return;
  var step = form.elements.step, domain = form.elements.domain, said = form.querySelector("output");
  function apply() {
    var s = step.value, d = domain.value, chosen = step.selectedOptions[0];
    document.querySelectorAll("[data-step],[data-domain],[data-checkpoint]").forEach(function (e) {
      var about = e.dataset;
      var off = (s !== "" && about.step !== undefined && about.step !== s) ||
        (d !== "" && about.domain !== undefined && about.domain !== d) ||
        (s !== "" && about.checkpoint !== undefined && about.checkpoint !== chosen.dataset.parent && about.checkpoint !== chosen.dataset.child);
      e.classList.toggle("off", off);
    });
    if (s !== "") document.querySelectorAll('details.page[data-step="' + s + '"]').forEach(open);
    said.textContent = s === "" && d === "" ? "" : "Showing " + chosen.textContent + ", " + domain.selectedOptions[0].textContent + ".";
  }
  step.addEventListener("change", apply);
  domain.addEventListener("change", apply);
  form.addEventListener("reset", function () { setTimeout(apply, 0); });
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  form.hidden = false;
  if (step.value !== "" || domain.value !== "") apply();
})();
