// The operators' page: its tabs, and whether what it shows is live. Airflow imports this module and takes `Edge fleet`.

import { Events } from "./events.js";
import { Figures } from "./figures.js";
import { h, takeStyle, useParameters, useState } from "./host.js";
import { Jobs } from "./jobs.js";
import { Join } from "./join.js";
import { Notice } from "./parts.js";
import { Queues } from "./queues.js";
import { Worker } from "./worker.js";
import { Workers } from "./workers.js";
import { plural } from "./words.js";

const TABS = [
  ["workers", "Workers", Workers],
  ["queues", "Queues", Queues],
  ["jobs", "Jobs", Jobs],
  ["figures", "Last hour", Figures],
  ["events", "Events", Events],
  ["join", "Add a worker", Join],
];
const HOW = {
  waiting: "Connecting …",
  live: "Live",
  asking: "Not live: asked every 5 s",
  away: "Not live: no answer",
};

function Live({ live }) {
  const gateways = live?.data?.summary?.gateways;
  const how = live?.how ?? "waiting";
  return h("span", { className: "ew-live", role: "status", "data-how": how },
    HOW[how], gateways ? h("span", null, ` · ${plural(gateways.alive, "gateway")}`) : null);
}

/** What needs somebody, in a sentence each; a view's own empty state says the rest. */
const Hints = ({ of }) =>
  (of ?? []).filter((hint) => !["no_worker", "no_jobs"].includes(hint.code)).map((hint) =>
    h(Notice, { key: hint.code + hint.sentence }, h("strong", null, hint.sentence), hint.advice ? ` ${hint.advice}` : ""));

function Page() {
  takeStyle();
  const [params, change] = useParameters();
  const [live, setLive] = useState(null);
  const asked = params.get("tab");
  // A worker's own view stands where the list of workers does.
  const key = asked === "worker" ? "workers" : TABS.some(([one]) => one === asked) ? asked : "workers";
  const View = asked === "worker" ? Worker : TABS.find(([one]) => one === key)[2];
  const go = (tab) => change({ ...Object.fromEntries([...params.keys()].map((name) => [name, null])), tab }, { replace: false });
  const onKey = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const at = TABS.findIndex(([one]) => one === key);
    const next = TABS[(at + step + TABS.length) % TABS.length][0];
    go(next);
    document.getElementById(`ew-tab-${next}`)?.focus();
  };
  return h("div", { className: "ew ew-page" },
    h("div", { className: "ew-top" },
      h("div", { className: "ew-tabs", role: "tablist", "aria-label": "Edge fleet", onKeyDown: onKey },
        TABS.map(([one, label]) =>
          h("button", {
            key: one, id: `ew-tab-${one}`, type: "button", role: "tab", "aria-selected": one === key,
            "aria-controls": "ew-panel", tabIndex: one === key ? 0 : -1, onClick: () => go(one),
          }, label))),
      h(Live, { live })),
    live?.data?.fault ? h(Notice, { kind: "bad" }, h("strong", null, "What is shown may be old: "), live.data.fault) : null,
    h(Hints, { of: live?.data?.summary?.hints }),
    h("div", { id: "ew-panel", role: "tabpanel", "aria-labelledby": `ew-tab-${key}` },
      h(View, { key: asked ?? "workers", params, change, told: setLive })));
}

globalThis["Edge fleet"] = Page;
