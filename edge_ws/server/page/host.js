// What the page takes from Airflow's own: React and its router, as the globals that Airflow's UI sets for plugins.
// Nothing else of Airflow's is used but the colours of its theme (page.css), so no bundler and no Chakra stand between.

const { React, ReactRouterDOM } = globalThis;

export const { useCallback, useEffect, useMemo, useRef, useState, useId, Fragment } = React;

/** Make an element: h("p", { className: "x" }, "text"), or h("p", "text"). */
export function h(type, given, ...children) {
  const isProps = given !== null && typeof given === "object" && !Array.isArray(given) && !React.isValidElement(given);
  return isProps || given === undefined
    ? React.createElement(type, given, ...children)
    : React.createElement(type, null, given, ...children);
}

/** A link within Airflow: `to` begins with a slash and is below Airflow's base path. */
export function InAirflow({ to, children, ...more }) {
  return h(ReactRouterDOM.Link, { to, ...more }, children);
}

/** The parameters of the page's URL, and how to change some of them (null or "" takes one away). */
export function useParameters() {
  const [params, setParams] = ReactRouterDOM.useSearchParams();
  const change = useCallback(
    (changes, { replace = true } = {}) =>
      setParams(
        (before) => {
          const after = new URLSearchParams(before);
          for (const [name, value] of Object.entries(changes)) {
            if (value === null || value === undefined || value === "") after.delete(name);
            else after.set(name, value);
          }
          return after;
        },
        { replace },
      ),
    [setParams],
  );
  return [params, change];
}

/** Have the browser take the page's style, once. */
export function takeStyle() {
  const href = new URL("page.css", import.meta.url).href;
  if (!document.querySelector(`link[href="${href}"]`)) {
    document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href }));
  }
}
