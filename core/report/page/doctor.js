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
  const parts = now.findings.length
    ? [
        el("p", { class: "faint", text: `at the last validation, step ${now.step}` }),
        el("ul", {}, ...now.findings.map(findingLine)),
      ]
    : [el("p", { text: `Nothing any more since the validation at step ${now.step}.` })];
  if (before.length) {
    const lines = before.map((one) =>
      el("li", {
        class: "name",
        text: `step ${one.step}: ${one.findings.map((finding) => finding.sentence).join("; ") || "nothing"}`,
      }),
    );
    parts.push(
      el("details", {}, el("summary", { text: "At the validations before" }), el("ul", {}, ...lines)),
    );
  }
  return parts;
}

const findingLine = (finding) =>
  el(
    "li",
    { class: "name" },
    el("strong", { text: finding.sentence }),
    `: ${finding.evidence}. `,
    el("span", { class: "faint", text: `Try ${finding.advice}.` }),
  );
