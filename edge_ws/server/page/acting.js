// What an operator can wish of workers: each wish asked once more where it stops work, each worker's answer shown.

import { change } from "./api.js";
import { Fragment, h, useState } from "./host.js";
import { Dialog, Field, Notice } from "./parts.js";
import { plural } from "./words.js";

const names = (text) => text.split(/[\s,]+/).filter(Boolean);

/** ISO time of what a field of type datetime-local says. */
const iso = (local) => new Date(local).toISOString();

/** "18:00" as the next such moment, for a field of type datetime-local. */
function laterToday() {
  const at = new Date(Date.now() + 2 * 3600 * 1000);
  at.setMinutes(0, 0, 0);
  return new Date(at - at.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
}

/** One wish: its words, its fields, and the operation with the body that they make. `stops`: what is asked once more. */
export const WISHES = {
  concurrency: {
    label: "Concurrency…", title: "Change concurrency", does: "Change it",
    fields: [{ name: "concurrency", label: "Slots", type: "number", min: 0, max: 10000, required: true, hint: "Tasks at a time; running ones go on. 0 takes no new tasks." }],
    make: (given) => ["set-worker-concurrency", { concurrency: Number(given.concurrency) }],
    start: (rows) => ({ concurrency: rows.length === 1 ? String(rows[0].wished_concurrency ?? rows[0].concurrency ?? "") : "" }),
  },
  addQueues: {
    label: "Add queues…", title: "Add queues", does: "Add",
    fields: [{ name: "queues", label: "Queues", required: true, hint: "Names, with commas or spaces between." }],
    make: (given) => ["add-worker-queues", { queues: names(given.queues) }],
  },
  removeQueues: {
    label: "Remove queues…", title: "Remove queues", does: "Remove",
    fields: [{ name: "queues", label: "Queues", required: true, hint: "Tasks of these queues that run already go on." }],
    make: (given) => ["remove-worker-queues", { queues: names(given.queues) }],
  },
  maintenance: {
    label: "Maintenance…", title: "Maintenance", does: "Begin maintenance",
    fields: [
      { name: "comment", label: "Why", required: true, maxLength: 800, hint: "Others see it with your name. Running tasks go on; no new ones start." },
      { name: "ends", label: "It ends", options: [["", "when somebody ends it"], ["30m", "after 30 minutes"], ["2h", "after 2 hours"], ["8h", "after 8 hours"], ["at", "at a time"]] },
      { name: "until", label: "Until", type: "datetime-local", required: true, when: (given) => given.ends === "at" },
    ],
    start: () => ({ ends: "2h", until: laterToday() }),
    make: (given) => ["remote-edge-worker-request-maintenance", {
      comment: given.comment,
      ...(given.ends === "at" ? { until: iso(given.until) } : given.ends ? { for: given.ends } : {}),
    }],
  },
  endMaintenance: {
    label: "End maintenance", title: "End maintenance", does: "End maintenance", fields: [],
    make: () => ["remote-edge-worker-exit-maintenance", {}],
  },
  shutdown: {
    label: "Drain and shut down…", title: "Drain and shut down", does: "Shut down", danger: true,
    stops: (count) => `${count} will take no new tasks, finish what runs, and end. A worker can be started again only on its own machine.`,
    fields: [
      { name: "limited", label: "Running tasks", options: [["", "may finish, however long they take"], ["5m", "are stopped after 5 minutes"], ["30m", "are stopped after 30 minutes"], ["2h", "are stopped after 2 hours"], ["0", "are stopped at once"]] },
    ],
    make: (given) => ["shutdown-remote-edge-worker", given.limited ? { deadline: given.limited === "0" ? 0 : given.limited } : {}],
  },
  remove: {
    label: "Remove…", title: "Remove from the list", does: "Remove", danger: true,
    stops: (count) => `${count} will be taken off the list, with what is known of them. Only workers that have ended can be removed; one that connects again is listed again.`,
    fields: [], make: () => ["remove-remote-edge-worker", {}],
  },
};

/** The buttons over a table of workers; `names` are the chosen ones. */
export function Acting({ names: chosen, total, everyName, shown, onDone, onClear }) {
  const [asked, setAsked] = useState(null);
  const [all, setAll] = useState(null);
  const [trouble, setTrouble] = useState(null);
  const meant = all ?? chosen;
  const selectAll = async () => {
    setTrouble(null);
    try {
      setAll(await everyName());
    } catch (error) {
      setTrouble(error.message);
    }
  };
  const clear = () => {
    setAll(null);
    onClear();
  };
  return h("div", { className: "ew-acting", role: "toolbar", "aria-label": "Change workers" },
    h("span", { className: "ew-meant", role: "status" }, meant.length === 0 ? "Select workers to change them" : `${plural(meant.length, "worker")} selected`),
    all === null && total > chosen.length
      ? h("button", { type: "button", className: "ew-link", onClick: selectAll }, `Select all ${total.toLocaleString()} that match`) : null,
    meant.length ? h("button", { type: "button", className: "ew-link", onClick: clear }, "Select none") : null,
    meant.length ? h("div", { className: "ew-buttons" }, h(Wishes, { onAsk: setAsked })) : null,
    trouble ? h(Notice, { kind: "bad" }, trouble) : null,
    asked ? h(Wish, {
      wish: WISHES[asked], workers: meant, rows: shown.filter((one) => meant.includes(one.worker_name)),
      onClose: () => { setAsked(null); onDone(); },
    }) : null);
}

export const Wishes = ({ onAsk }) =>
  Object.entries(WISHES).map(([key, wish]) =>
    h("button", { key, type: "button", className: `ew-button${wish.danger ? " ew-danger" : ""}`, onClick: () => onAsk(key) }, wish.label));

/** The dialog of one wish, and then the workers' answers. */
export function Wish({ wish, workers, rows, onClose }) {
  const [given, setGiven] = useState(wish.start?.(rows) ?? {});
  const [state, setState] = useState({ step: "ask" });
  const send = async (event) => {
    event.preventDefault();
    setState({ step: "sent" });
    const [operation, body] = wish.make(given);
    try {
      const answers = await change(operation, { ...body, worker: workers });
      setState({ step: "told", answers: Array.isArray(answers) ? answers : [answers] });
    } catch (error) {
      setState({ step: "ask", error: error.message });
    }
  };
  const whom = workers.length === 1 ? workers[0] : plural(workers.length, "worker");
  if (state.step === "told") return h(Answers, { title: wish.title, answers: state.answers, name: "worker_name", onClose });
  return h(Dialog, { title: `${wish.title}: ${whom}`, onClose },
    h("form", { onSubmit: send },
      wish.stops ? h(Notice, { kind: "warn" }, wish.stops(whom)) : null,
      wish.fields.filter((field) => field.when?.(given) ?? true).map((field) => h(Input, {
        key: field.name, field, value: given[field.name] ?? "", onChange: (value) => setGiven({ ...given, [field.name]: value }),
      })),
      workers.length > 1 ? h("details", null, h("summary", null, "Which ones"), h("p", { className: "ew-names" }, workers.join(", "))) : null,
      state.error ? h(Notice, { kind: "bad" }, state.error) : null,
      h("div", { className: "ew-dialog-buttons" },
        h("button", { type: "button", className: "ew-button", onClick: onClose }, "Cancel"),
        h("button", { type: "submit", className: `ew-button ${wish.danger ? "ew-danger-solid" : "ew-primary"}`, disabled: state.step === "sent" },
          state.step === "sent" ? "Asking …" : wish.does))));
}

export function Input({ field, value, onChange }) {
  const { name, label, hint, options, when, ...input } = field;
  const take = (event) => onChange(event.target.value);
  return options
    ? h(Field, { label, hint }, (id) => h("select", { id, name, value, onChange: take }, options.map(([key, words]) => h("option", { key, value: key }, words))))
    : h(Field, { label, hint, name, value, onChange: take, ...input });
}

/** What each one answered; refusals with their reasons come first. */
export function Answers({ title, answers, name, onClose }) {
  const refused = answers.filter((one) => one.error);
  const done = answers.filter((one) => !one.error);
  return h(Dialog, { title, onClose },
    refused.length ? h(Fragment, null,
      h(Notice, { kind: "bad" }, `${refused.length} of ${answers.length} refused`),
      h("ul", { className: "ew-answers" }, refused.map((one) => h("li", { key: one[name] }, h("strong", null, one[name]), ": ", one.error)))) : null,
    done.length ? h("ul", { className: "ew-answers" }, done.map((one) =>
      h("li", { key: one[name] }, h("strong", null, one[name]), ": ", one.told || "nothing to change"))) : null,
    answers.length === 0 ? h("p", null, "There was nothing to change.") : null,
    h("div", { className: "ew-dialog-buttons" }, h("button", { type: "button", className: "ew-button ew-primary", autoFocus: true, onClick: onClose }, "Close")));
}
