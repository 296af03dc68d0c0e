// What the part of the address behind # means: `#/panel/part/part?name=value`. Each row that can be opened has such an address.

import { useEffect, useState } from "../vendor/preact.js";

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Return { panel, parts, query } of an address. */
export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [panel, ...parts] = path.split("/").map(decoded);
  return { panel, parts: parts.filter(Boolean), query: Object.fromEntries(new URLSearchParams(query)) };
}

/** Return the address of a panel, or of a row of it. Parameters that are empty are left out. */
export function link(panel, parts = [], query = {}) {
  const path = ["#", panel, ...parts.map((each) => encodeURIComponent(each))].join("/");
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

export const go = (hash) => {
  window.location.hash = hash;
};

/** Return what the address is now. */
export function useAddress() {
  const [place, setPlace] = useState(parse(window.location.hash));
  useEffect(() => {
    const change = () => setPlace(parse(window.location.hash));
    window.addEventListener("hashchange", change);
    return () => window.removeEventListener("hashchange", change);
  }, []);
  return place;
}
