// Queues: what waits in each, who takes it, and pausing one.

import { Answers, Input } from "./acting.js";
import { change as wish } from "./api.js";
import { Fragment, h, useEffect, useState } from "./host.js";
import { useLive } from "./live.js";
import { Badge, Bar, Dialog, Empty, Filter, Notice, Pages, Since, Table, Trouble } from "./parts.js";
import { moment } from "./words.js";

const SIZE = 50;
const FLAGS = {
  paused: ["warn", "paused"],
  unserved: ["bad", "no worker names it"],
  all_away: ["bad", "all its workers are away"],
  none_take: ["warn", "no worker takes its jobs"],
  waits: ["warn", "jobs wait"],
};

const columns = (mayManage, onAsk, onOpen) => [
  { key: "queue", label: "Queue", sort: "queue", cell: (one) => h("strong", null, one.queue) },
  {
    key: "flags", label: "State",
    cell: (one) => h(Fragment, null,
      (one.flags ?? []).length
        ? one.flags.map((flag) => h(Badge, { key: flag, kind: FLAGS[flag]?.[0] ?? "warn" }, FLAGS[flag]?.[1] ?? flag))
        : h(Badge, { kind: "good" }, "served"),
      one.paused ? h("div", { className: "ew-small" },
        [one.pause_note, one.paused_by ? `by ${one.paused_by}` : "", one.paused_since ? `since ${moment(one.paused_since)}` : ""].filter(Boolean).join(", ")) : null),
  },
  {
    key: "queued", label: "Waiting", sort: "queued",
    cell: (one) => one.queued ? h("button", { type: "button", className: "ew-link", onClick: () => onOpen({ tab: "jobs", queue: one.queue, state: "queued" }) }, one.queued) : 0,
  },
  { key: "oldest", label: "Oldest waits", sort: "oldest_queued_at", cell: (one) => h(Since, { at: one.oldest_queued_at }) },
  { key: "running", label: "Running", sort: "running", cell: (one) => one.running },
  {
    key: "workers", label: "Workers", sort: "workers",
    cell: (one) => h("button", { type: "button", className: "ew-link", onClick: () => onOpen({ tab: "workers", queue: one.queue }) },
      one.workers_all === undefined || one.workers_all === one.workers ? one.workers : `${one.workers} of ${one.workers_all} take jobs`),
  },
  {
    key: "slots", label: "Slots", sort: "free_slots",
    cell: (one) => one.slots ? h(Bar, { used: Math.max(0, one.slots - one.free_slots), of: one.slots, label: "slots" }) : `${one.free_slots} free`,
  },
  ...(mayManage ? [{
    key: "act", label: "Change",
    cell: (one) => one.paused
      ? h("button", { type: "button", className: "ew-button", onClick: () => onAsk({ queue: one.queue, pause: false }), "aria-label": `Resume queue ${one.queue}` }, "Resume")
      : h("button", { type: "button", className: "ew-button", onClick: () => onAsk({ queue: one.queue, pause: true }), "aria-label": `Pause queue ${one.queue}` }, "Pause…"),
  }] : []),
];

export function Queues({ params, change, told }) {
  const [asked, setAsked] = useState(null);
  const order = [params.get("sort") ?? "queue", Boolean(params.get("desc"))];
  const query = { of: "queues", limit: SIZE, offset: Number(params.get("offset") ?? 0), sort: order[0] };
  if (order[1]) query.desc = 1;
  if (params.get("q")) query.q = params.get("q");
  const live = useLive(query);
  const { data } = live;
  useEffect(() => told(live), [live]);
  return h("section", { "aria-label": "Queues" },
    h("div", { className: "ew-filters", role: "search", "aria-label": "Filter queues" },
      h(Filter, { label: "Queue", value: params.get("q"), onChange: (q) => change({ q, offset: null }) })),
    h(Trouble, { live }),
    data === null ? null : data.rows.length === 0
      ? h(Empty, { title: params.get("q") ? "No queue matches" : "No queue yet" },
        h("p", null, "A queue is here when a worker names it or a task waits in it: a task’s argument queue, or a worker’s --queues."))
      : h(Fragment, null,
        h(Table, {
          label: "Queues", rows: data.rows, name: (one) => one.queue, order,
          columns: columns(data.me?.may_manage, setAsked, (to) => change({ q: null, sort: null, desc: null, offset: null, ...to }, { replace: false })),
          onOrder: (sort, desc) => change({ sort, desc: desc ? "1" : null, offset: null }),
        }),
        h(Pages, { total: data.total, offset: data.offset, size: SIZE, onOffset: (offset) => change({ offset: offset || null }), what: "queue" })),
    asked ? h(Pause, { of: asked, onClose: () => { setAsked(null); live.again(); } }) : null);
}

const NOTE = { name: "note", label: "Why", required: true, maxLength: 800, hint: "Others see it with your name. Running tasks go on; waiting ones keep their place." };

function Pause({ of, onClose }) {
  const [note, setNote] = useState("");
  const [state, setState] = useState({ step: "ask" });
  const send = async (event) => {
    event.preventDefault();
    setState({ step: "sent" });
    try {
      const told = await (of.pause ? wish("pause-queue", { queue: [of.queue], note }) : wish("resume-queue", { queue: [of.queue] }));
      setState({ step: "told", answers: Array.isArray(told) ? told : [told] });
    } catch (error) {
      setState({ step: "ask", error: error.message });
    }
  };
  if (state.step === "told") return h(Answers, { title: of.pause ? "Pause a queue" : "Resume a queue", answers: state.answers, name: "queue", onClose });
  return h(Dialog, { title: `${of.pause ? "Pause" : "Resume"} queue ${of.queue}`, onClose },
    h("form", { onSubmit: send },
      of.pause ? h(Notice, { kind: "warn" }, "No worker is given new tasks of this queue until somebody resumes it.") : h("p", null, "Its waiting tasks are given to workers at once."),
      of.pause ? h(Input, { field: NOTE, value: note, onChange: setNote }) : null,
      state.error ? h(Notice, { kind: "bad" }, state.error) : null,
      h("div", { className: "ew-dialog-buttons" },
        h("button", { type: "button", className: "ew-button", onClick: onClose }, "Cancel"),
        h("button", { type: "submit", className: "ew-button ew-primary", disabled: state.step === "sent" }, of.pause ? "Pause it" : "Resume it"))));
}

