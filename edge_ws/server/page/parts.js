// The small parts that every view is made of: badges, bars, tables, dialogs, empty states.

import { Fragment, h, useEffect, useId, useRef, useState } from "./host.js";
import { clock } from "./live.js";
import { age, duration, plural, tone } from "./words.js";

const tickers = new Set();
setInterval(() => document.hidden || tickers.forEach((tick) => tick((count) => count + 1)), 1000);

function useTicks() {
  const [, tick] = useState(0);
  useEffect(() => {
    tickers.add(tick);
    return () => tickers.delete(tick);
  }, []);
}

const since = (iso) => Math.max(0, (clock() - Date.parse(iso)) / 1000);

/** How long ago that was; it goes on by itself. */
export function Age({ at }) {
  useTicks();
  return at ? h("time", { dateTime: at, title: new Date(at).toLocaleString() }, age(since(at))) : null;
}

/** How long it has been so. */
export function Since({ at }) {
  useTicks();
  return at ? h("time", { dateTime: at, title: new Date(at).toLocaleString() }, duration(Math.floor(since(at)))) : null;
}

export const Badge = ({ state, kind, title, children }) =>
  h("span", { className: `ew-badge ew-${kind ?? tone(state)}`, title }, children ?? state);

/** How much of something is taken, as a bar with its numbers. */
export function Bar({ used, of, label }) {
  const share = of > 0 ? Math.min(1, Math.max(0, used / of)) : 0;
  const said = `${used} of ${of} ${label} used`;
  return h("span", { className: "ew-bar", role: "img", "aria-label": said, title: said },
    h("span", { className: `ew-bar-fill${share >= 1 ? " ew-full" : ""}`, style: { width: `${share * 100}%` } }),
    h("span", { className: "ew-bar-words" }, `${used} / ${of}`));
}

export const Empty = ({ title, children }) =>
  h("div", { className: "ew-empty", role: "status" }, h("h3", null, title), h("div", null, children));

export const Notice = ({ kind = "warn", children }) =>
  h("div", { className: `ew-notice ew-${kind}`, role: kind === "bad" ? "alert" : "status" }, children);

/** What stands under a view's name while it has no rows: it loads, or it failed, and what to do then. */
export function Trouble({ live }) {
  if (live.error === null) return live.data === null ? h(Empty, { title: "Loading …" }) : null;
  const { status, code, message } = live.error;
  const advice = {
    401: "Your session with Airflow has ended: reload this page to log in again.",
    403: "Ask an administrator of Airflow for this right.",
    404: "The gateway that answers is older than this page: upgrade it, or reload this page.",
    503: "The page looks again by itself. Tables are made by: airflow db migrate, or: edge-ws db migrate.",
    0: "The page looks again by itself.",
  }[status];
  return h(Notice, { kind: "bad" }, h("strong", null, message), code === "unknown" ? " (not by edge-ws)" : "",
    advice ? h("div", null, advice) : null);
}

/**
 * A table that becomes a list of cards where there is no room.
 *
 * columns: [{ key, label, cell(row), sort: key at the server or undefined, wide }]; `order` is [key, isDescending].
 */
export function Table({ label, columns, rows, name, order, onOrder, selection, onSelect, onRow }) {
  const [by, descending] = order ?? [];
  const all = rows.length > 0 && rows.every((row) => selection?.has(name(row)));
  const chooseAll = () => {
    const chosen = new Set(selection);
    for (const row of rows) all ? chosen.delete(name(row)) : chosen.add(name(row));
    onSelect(chosen);
  };
  const choose = (one) => {
    const chosen = new Set(selection);
    chosen.delete(one) || chosen.add(one);
    onSelect(chosen);
  };
  const head = columns.map((column) =>
    h("th", {
      key: column.key, scope: "col", role: "columnheader",
      "aria-sort": column.sort && by === column.sort ? (descending ? "descending" : "ascending") : undefined,
    },
    column.sort && onOrder
      ? h("button", { type: "button", className: "ew-sort", onClick: () => onOrder(column.sort, by === column.sort && !descending) },
        column.label, h("span", { "aria-hidden": true }, by === column.sort ? (descending ? " ↓" : " ↑") : ""))
      : column.label));
  return h("div", { className: "ew-scroll" },
    h("table", { className: "ew-table", role: "table", "aria-label": label },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" },
        selection ? h("th", { scope: "col", role: "columnheader", className: "ew-check" },
          h("input", { type: "checkbox", checked: all, onChange: chooseAll, "aria-label": "Select all on this page" })) : null,
        head)),
      h("tbody", { role: "rowgroup" }, rows.map((row) => {
        const one = name(row);
        return h("tr", { key: one, role: "row", className: selection?.has(one) ? "ew-chosen" : undefined, "data-name": one },
          selection ? h("td", { role: "cell", className: "ew-check" },
            h("input", { type: "checkbox", checked: selection.has(one), onChange: () => choose(one), "aria-label": `Select ${one}` })) : null,
          columns.map((column) => h("td", { key: column.key, role: "cell", "data-label": column.label, "data-key": column.key }, h("div", { className: "ew-cell" }, column.cell(row)))));
      }))));
}

export function Pages({ total, offset, size, onOffset, what }) {
  if (total === 0) return null;
  const last = Math.min(total, offset + size);
  return h("nav", { className: "ew-pages", "aria-label": "Pages" },
    h("span", null, total > size ? `${offset + 1}–${last} of ${plural(total, what)}` : plural(total, what)),
    total > size ? h(Fragment, null,
      h("button", { type: "button", className: "ew-button", disabled: offset === 0, onClick: () => onOffset(Math.max(0, offset - size)) }, "Previous"),
      h("button", { type: "button", className: "ew-button", disabled: last >= total, onClick: () => onOffset(offset + size) }, "Next")) : null);
}

/** A text filter that waits until its user pauses. */
export function Filter({ label, value, onChange, options, placeholder }) {
  const [text, setText] = useState(value ?? "");
  const id = useId();
  useEffect(() => setText(value ?? ""), [value]);
  useEffect(() => {
    if (options || text === (value ?? "")) return undefined;
    const timer = setTimeout(() => onChange(text), 300);
    return () => clearTimeout(timer);
  }, [text]);
  const field = options
    ? h("select", { id, value: value ?? "", onChange: (event) => onChange(event.target.value) },
      h("option", { value: "" }, "any"), options.map((one) => h("option", { key: one, value: one }, one)))
    : h("input", { id, type: "search", value: text, placeholder, autoComplete: "off", onChange: (event) => setText(event.target.value) });
  return h("div", { className: "ew-filter" }, h("label", { htmlFor: id }, label), field);
}

/** The browser's own modal dialog: it keeps the focus, and Escape closes it. */
export function Dialog({ title, onClose, children }) {
  const dialog = useRef(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement;
    dialog.current.showModal();
    return () => before?.focus?.();
  }, []);
  return h("dialog", { ref: dialog, className: "ew-dialog ew", "aria-labelledby": id, onCancel: (event) => { event.preventDefault(); onClose(); } },
    h("h2", { id }, title), children);
}

export function Field({ label, hint, children, ...input }) {
  const id = useId();
  return h("div", { className: "ew-field" },
    h("label", { htmlFor: id }, label),
    children ? children(id) : h("input", { id, ...input }),
    hint ? h("p", { className: "ew-hint" }, hint) : null);
}

/** A command to copy. */
export function Command({ text, label }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 2000);
  };
  return h("div", { className: "ew-command" },
    h("pre", { tabIndex: 0, "aria-label": label }, text),
    // Without https browsers have no clipboard for pages.
    navigator.clipboard ? h("button", { type: "button", className: "ew-button", onClick: copy, "aria-live": "polite" }, copied ? "Copied" : "Copy") : null);
}

export const Facts = ({ of }) =>
  h("dl", { className: "ew-facts" }, of.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) =>
    h("div", { key: name }, h("dt", null, name), h("dd", null, value))));
