// Plots of an hour by minutes, as SVG: lines, or bars upon each other.

import { h } from "./host.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [480, 170, 46, 20, 8];
const COLOURS = ["blue", "orange", "green", "red", "purple", "teal", "pink", "yellow", "cyan", "gray"];

const colour = (series, index) => `var(--chakra-colors-${series.colour ?? COLOURS[index % COLOURS.length]}-solid, ${series.colour ?? COLOURS[index % COLOURS.length]})`;

/** The next number that reads well. */
function ceiling(most) {
  if (!(most > 0)) return 1;
  const size = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 3, 5, 10].map((one) => one * size).find((one) => one >= most * 0.999);
}

/**
 * title: its name; series: [{ name, values, colour }], a value for each minute, null where there is none;
 * times: the minutes as ISO; say: a value as words; kind: "lines" or "bars"; whole: values are whole numbers;
 * note: a sentence below the name.
 */
export function Plot({ title, note, series, times, say, kind = "lines", most, whole }) {
  const stacked = kind === "bars";
  const sums = times.map((_, at) => series.reduce((sum, one) => sum + (one.values[at] ?? 0), 0));
  const top = most ?? ceiling(Math.max(...(stacked ? sums : series.flatMap((one) => one.values.filter((value) => value !== null))), whole ? 1 : 0));
  const step = (WIDTH - LEFT - 6) / Math.max(1, times.length);
  const x = (at) => LEFT + step * (at + 0.5);
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - Math.min(1, value / top));
  const isEmpty = series.every((one) => one.values.every((value) => !value));
  const ticks = whole && top < 2 ? [0, top] : [0, top / 2, top];
  const last = series.map((one) => {
    const said = one.values.filter((value) => value !== null && value !== undefined);
    return [one.name, said.length ? say(said.at(-1)) : "none"];
  });
  const below = times.map(() => 0);
  return h("figure", { className: "ew-plot" },
    h("figcaption", null, title), note ? h("p", { className: "ew-small" }, note) : null,
    h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}, by minute over the last hour. Now: ${last.map((one) => one.join(" ")).join(", ") || "nothing"}` },
      ticks.map((tick) => h("g", { key: tick },
        h("line", { x1: LEFT, x2: WIDTH - 6, y1: y(tick), y2: y(tick), stroke: "var(--ew-line)" }),
        h("text", { x: LEFT - 5, y: y(tick) + 3, textAnchor: "end" }, say(tick)))),
      [0, 0.25, 0.5, 0.75].map((share) => {
        const at = Math.round(share * times.length);
        return times[at] ? h("text", { key: share, x: x(at), y: HEIGHT - 5, textAnchor: "middle" }, clockOf(times[at])) : null;
      }),
      isEmpty ? h("text", { x: (WIDTH + LEFT) / 2, y: HEIGHT / 2, textAnchor: "middle" }, "nothing in this hour") : null,
      series.map((one, index) => stacked
        ? one.values.map((value, at) => {
          if (!value) return null;
          const from = below[at];
          below[at] += value;
          return h("rect", { key: `${index}-${at}`, x: x(at) - step * 0.4, width: step * 0.8, y: y(below[at]), height: Math.max(0.5, y(from) - y(below[at])), fill: colour(one, index) },
            h("title", null, `${clockOf(times[at])}: ${one.name} ${say(value)}`));
        })
        : h("g", { key: one.name },
          parts(one.values).map((part) => h("polyline", { key: part[0][0], points: part.map(([at, value]) => `${x(at)},${y(value)}`).join(" "), fill: "none", stroke: colour(one, index), strokeWidth: 1.6, strokeLinejoin: "round" })),
          one.values.map((value, at) => value === null || value === undefined ? null
            : h("circle", { key: at, cx: x(at), cy: y(value), r: 2, fill: colour(one, index) }, h("title", null, `${clockOf(times[at])}: ${one.name} ${say(value)}`)))))),
    h("ul", { className: "ew-legend" }, series.map((one, index) =>
      h("li", { key: one.name, style: { "--ew-series": colour(one, index) } }, one.name, one.told ? h("span", { className: "ew-dim" }, ` ${one.told}`) : null))));
}

const clockOf = (iso) => new Date(iso).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

/** Runs of values without a gap, as [index, value]. */
function parts(values) {
  const found = [];
  let run = [];
  values.forEach((value, at) => {
    if (value === null || value === undefined) {
      if (run.length) found.push(run);
      run = [];
    } else {
      run.push([at, value]);
    }
  });
  if (run.length) found.push(run);
  return found;
}
