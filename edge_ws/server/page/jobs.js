// Jobs: where each is, why it waits, and the way to Airflow's task instance and its log.

import { Fragment, h, InAirflow, useEffect } from "./host.js";
import { useLive } from "./live.js";
import { Age, Badge, Empty, Filter, Pages, Table, Trouble } from "./parts.js";

const SIZE = 50;
const STATES = ["open", "queued", "offered", "accepted", "started", "running", "success", "failed", "removed"];
const FILTERS = ["q", "dag_id", "run_id", "task_id", "queue", "worker", "state"];

/** Airflow's own page of a job's task, whose first view is its log; a callback has none. */
export function taskPath(job) {
  if (job.is_callback) return null;
  const [dag, run, task] = [job.dag_id, job.run_id, job.task_id].map(encodeURIComponent);
  const mapped = job.map_index >= 0 ? `/mapped/${job.map_index}` : "";
  return `/dags/${dag}/runs/${run}/tasks/${task}${mapped}${job.try_number > 0 ? `?try_number=${job.try_number}` : ""}`;
}

const mapped = (job) => (job.map_index >= 0 ? `[${job.map_index}]` : "");

function Task({ of }) {
  const path = taskPath(of);
  const name = `${of.task_id}${mapped(of)}`;
  return h(Fragment, null,
    path ? h(InAirflow, { to: path, title: "The task in Airflow, with its log" }, name) : name,
    of.try_number > 1 ? h("span", { className: "ew-dim" }, ` try ${of.try_number}`) : null);
}

const Where = ({ of }) =>
  h(Fragment, null,
    h(Badge, { state: of.phase && of.state !== "success" && of.state !== "failed" ? of.phase : of.state }),
    of.verdict ? h("div", { className: "ew-small" }, of.verdict, of.advice ? h("div", null, of.advice) : null) : null);

export const jobColumns = (open) => [
  { key: "task", label: "Task", sort: "task_id", cell: (one) => h(Task, { of: one }) },
  {
    key: "dag", label: "DAG and run", sort: "dag_id",
    cell: (one) => one.is_callback ? "a callback" : h(Fragment, null,
      h(InAirflow, { to: `/dags/${encodeURIComponent(one.dag_id)}` }, one.dag_id),
      h("div", { className: "ew-small" }, h(InAirflow, { to: `/dags/${encodeURIComponent(one.dag_id)}/runs/${encodeURIComponent(one.run_id)}` }, one.run_id))),
  },
  { key: "state", label: "Where it is", sort: "state", cell: (one) => h(Where, { of: one }) },
  { key: "queue", label: "Queue", sort: "queue", cell: (one) => one.queue },
  {
    key: "worker", label: "Worker", sort: "worker",
    cell: (one) => one.worker ? h("button", { type: "button", className: "ew-link", onClick: () => open(one.worker) }, one.worker) : null,
  },
  { key: "queued_at", label: "Queued", sort: "queued_at", cell: (one) => h(Age, { at: one.queued_at }) },
  { key: "offered_at", label: "Offered", sort: "offered_at", cell: (one) => h(Age, { at: one.offered_at }) },
  { key: "ended_at", label: "Ended", sort: "ended_at", cell: (one) => h(Age, { at: one.ended_at }) },
];

export const jobName = (one) => JSON.stringify([one.dag_id, one.run_id, one.task_id, one.map_index, one.try_number]);

export function Jobs({ params, change, told }) {
  const order = [params.get("sort") ?? "queued_at", params.has("desc") ? params.get("desc") === "1" : !params.has("sort")];
  const query = { of: "jobs", limit: SIZE, offset: Number(params.get("offset") ?? 0), sort: order[0] };
  if (order[1]) query.desc = 1;
  const filters = Object.fromEntries(FILTERS.map((name) => [name, params.get(name)]).filter(([, value]) => value));
  const live = useLive({ ...query, ...filters });
  const { data } = live;
  useEffect(() => told(live), [live]);
  const filter = (name) => (value) => change({ [name]: value, offset: null });
  const open = (worker) => change({ ...Object.fromEntries(FILTERS.map((one) => [one, null])), sort: null, desc: null, offset: null, tab: "worker", worker }, { replace: false });
  return h("section", { "aria-label": "Jobs" },
    h("div", { className: "ew-filters", role: "search", "aria-label": "Filter jobs" },
      h(Filter, { label: "Any name", value: filters.q, onChange: filter("q"), placeholder: "DAG, run or task" }),
      h(Filter, { label: "State", value: filters.state, onChange: filter("state"), options: STATES }),
      h(Filter, { label: "Queue", value: filters.queue, onChange: filter("queue"), options: data?.summary?.queue_names ?? [] }),
      h(Filter, { label: "DAG", value: filters.dag_id, onChange: filter("dag_id") }),
      h(Filter, { label: "Run", value: filters.run_id, onChange: filter("run_id") }),
      h(Filter, { label: "Task", value: filters.task_id, onChange: filter("task_id") }),
      h(Filter, { label: "Worker", value: filters.worker, onChange: filter("worker") })),
    h(Trouble, { live }),
    data === null ? null : data.rows.length === 0
      ? h(Empty, { title: Object.keys(filters).length ? "No job matches" : "No job yet" },
        h("p", null, "Trigger a DAG whose tasks go to this executor: each of its tasks is here from the moment it is queued."))
      : h(Fragment, null,
        h(Table, {
          label: "Jobs", columns: jobColumns(open), rows: data.rows, name: jobName, order,
          onOrder: (sort, desc) => change({ sort, desc: desc ? "1" : "0", offset: null }),
        }),
        data.complete === false ? h("p", { className: "ew-dim" }, "There are more jobs than are kept at hand; filter, or ask: edge-ws list-jobs") : null,
        h(Pages, { total: data.total, offset: data.offset, size: SIZE, onOffset: (offset) => change({ offset: offset || null }), what: "job" })));
}
