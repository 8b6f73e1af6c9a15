// What the server tells of by itself: one stream of events while the page is seen; asks by itself where none comes.

import { address, ask } from "./api.js";
import { useCallback, useEffect, useMemo, useRef, useState } from "./host.js";

const ASK_AGAIN_MS = 5000;
const STREAM_AGAIN_MS = 15000;
/** So long a stream may tell of nothing before the page asks whether that is so. */
const QUIET_MS = 40000;

let ahead = -Infinity;

/** The database's time now, in ms: all ages are counted by it, whatever this machine's clock says. */
export const clock = () => Date.now() + (Number.isFinite(ahead) ? ahead : 0);

function noteClock(at) {
  // An answer has travelled for a while: the one that says the most has travelled least.
  if (at) ahead = Math.max(ahead, Date.parse(at) - Date.now());
}

const withoutClock = (data) => JSON.stringify({ ...data, at: null });

/**
 * Follow one view: { data, error, how, again }.
 *
 * `how` is "waiting" (nothing heard yet), "live" (the stream is open), "asking" (asked every 5 s) or "away" (no answer).
 * What was heard last stays while nothing comes.
 */
export function useLive(query) {
  const [state, setState] = useState({ data: null, error: null, how: "waiting", of: null });
  const key = JSON.stringify(query);
  const look = useRef(() => {});

  useEffect(() => {
    const abort = new AbortController();
    let stream = null;
    let timer = null;
    let restart = null;
    let failures = 0;
    let heardAt = Date.now();
    let heard = "";

    const take = (data, how) => {
      heardAt = Date.now();
      heard = withoutClock(data);
      noteClock(data.at);
      setState({ data, error: null, how, of: key });
    };
    const fail = (error) =>
      setState((was) => ({ data: was.of === key ? was.data : null, of: key, error, how: "away" }));

    async function askNow() {
      clearTimeout(timer);
      timer = null;
      const isStreaming = () => stream?.readyState === EventSource.OPEN;
      try {
        const data = await ask("view", JSON.parse(key), abort.signal);
        // A stream that has not told of this is stuck somewhere on the way.
        const isStuck = isStreaming() && Date.now() - heardAt > QUIET_MS && withoutClock(data) !== heard;
        take(data, isStreaming() && !isStuck ? "live" : "asking");
        if (isStuck) listen();
      } catch (error) {
        if (error.name === "AbortError") return;
        fail(error);
      }
      if (!isStreaming() && !document.hidden && timer === null) timer = setTimeout(askNow, ASK_AGAIN_MS);
    }

    function listen() {
      clearTimeout(restart);
      stream?.close();
      stream = new EventSource(address("stream", JSON.parse(key)));
      stream.onmessage = (event) => {
        clearTimeout(timer);
        timer = null;
        failures = 0;
        take(JSON.parse(event.data), "live");
      };
      const anew = () => {
        stream.close();
        clearTimeout(restart);
        // Soon at first: a gateway that leaves is followed by another one.
        failures += 1;
        restart = setTimeout(listen, Math.min(STREAM_AGAIN_MS, 1000 * 2 ** (failures - 1)) * (0.5 + Math.random()));
        if (timer === null) askNow();
      };
      stream.onerror = anew;
      stream.addEventListener("end", anew);
    }

    function seen() {
      if (document.hidden) {
        // A tab that nobody looks at costs the server nothing.
        stream?.close();
        clearTimeout(timer);
        clearTimeout(restart);
      } else {
        listen();
      }
    }

    const watch = setInterval(() => {
      // Nothing may have happened, or the stream is cut without anybody having said so.
      if (!document.hidden && stream?.readyState === EventSource.OPEN && Date.now() - heardAt > QUIET_MS) askNow();
    }, 10000);
    document.addEventListener("visibilitychange", seen);
    look.current = askNow;
    seen();
    return () => {
      abort.abort();
      stream?.close();
      clearTimeout(timer);
      clearTimeout(restart);
      clearInterval(watch);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [key]);

  const again = useCallback(() => look.current(), []);
  // What was heard for another query is another table's. The same object while nothing changes: effects go by it.
  return useMemo(() => ({ ...state, data: state.of === key ? state.data : null, again }), [state, key, again]);
}
