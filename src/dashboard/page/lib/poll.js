// Asks again and again: rarely while it fails, not at all while nobody looks.

import { useCallback, useEffect, useRef, useState } from "../vendor/preact.js";
import { get } from "./api.js";

const LONGEST_PAUSE_SECONDS = 60;

/**
 * Load something every `seconds`, as long as the page can be seen; again at once when `key` changes.
 *
 * Returns { data, error, since, refresh }: `data` stays while `error` lasts, `since` is when that began (ms).
 */
export function usePoll(load, seconds, key) {
  const [state, setState] = useState({ data: undefined, error: null, since: null });
  const loader = useRef(load);
  const again = useRef(() => undefined);
  loader.current = load;

  useEffect(() => {
    let timer = 0;
    let failures = 0;
    let controller = null;
    let ended = false;
    setState({ data: undefined, error: null, since: null });

    async function once() {
      clearTimeout(timer);
      controller?.abort();
      const mine = new AbortController();
      controller = mine;
      try {
        const data = await loader.current(mine.signal);
        if (ended || mine.signal.aborted) {
          return;
        }
        failures = 0;
        setState({ data, error: null, since: null });
      } catch (error) {
        if (ended || mine.signal.aborted) {
          return;
        }
        failures += 1;
        setState((before) => ({ ...before, error, since: before.since ?? Date.now() }));
      }
      const pause = Math.min(LONGEST_PAUSE_SECONDS, seconds * 2 ** Math.min(failures, 6));
      timer = document.hidden ? 0 : setTimeout(once, pause * 1000);
    }

    function onVisibility() {
      clearTimeout(timer);
      if (!document.hidden) {
        once();
      }
    }

    again.current = once;
    document.addEventListener("visibilitychange", onVisibility);
    window.addEventListener("online", once);
    once();
    return () => {
      ended = true;
      clearTimeout(timer);
      controller?.abort();
      document.removeEventListener("visibilitychange", onVisibility);
      window.removeEventListener("online", once);
    };
  }, [key, seconds]);

  return { ...state, refresh: useCallback(() => again.current(), []) };
}

/** Load a path of Orthanc every `seconds`; null: nothing. */
export function useRoute(path, seconds = 5) {
  return usePoll((signal) => (path === null ? Promise.resolve(null) : get(path, signal)), seconds, path);
}

/** Return the time (ms), again every `seconds`: for what is told as `5 min ago`. */
export function useNow(seconds = 5) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => document.hidden || setNow(Date.now()), seconds * 1000);
    return () => clearInterval(timer);
  }, [seconds]);
  return now;
}
