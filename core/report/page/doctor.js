// What is wrong, and what to change: what the doctor said after each validation.

function buildDoctor() {
  const host = byId("doctor");
  const sick = runs.filter((run) => (run.diagnoses || []).length);
  host.hidden = !sick.length;
  if (!sick.length) return;
  host.append(el("h2", { id: "doctor-title", text: "What is wrong, and what to try" }));
  for (const run of sick) {
    if (compares) host.append(el("h3", { class: "name", text: run.name }));
    host.append(...diagnosesOf(run));
  }
}

function diagnosesOf(run) {
  const now = run.diagnoses[run.diagnoses.length - 1];
  const before = run.diagnoses.slice(0, -1).reverse();
  const parts = now.faults.length
    ? [
        el("p", { class: "faint", text: `at the last validation, step ${now.step}` }),
        el("ul", {}, ...now.faults.map(faultLine)),
      ]
    : [el("p", { text: `Nothing any more since the validation at step ${now.step}.` })];
  if (before.length) {
    const lines = before.map((one) =>
      el("li", {
        class: "name",
        text: `step ${one.step}: ${one.faults.map((fault) => fault.sentence).join("; ") || "nothing"}`,
      }),
    );
    parts.push(
      el("details", {}, el("summary", { text: "At the validations before" }), el("ul", {}, ...lines)),
    );
  }
  return parts;
}

const faultLine = (fault) =>
  el(
    "li",
    { class: "name" },
    el("strong", { text: fault.sentence }),
    `: ${fault.evidence}. `,
    el("span", { class: "faint", text: `Try ${fault.advice}.` }),
  );
