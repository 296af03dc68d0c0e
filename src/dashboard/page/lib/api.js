// Requests to this Orthanc, wherever a proxy puts it: all paths begin above `dashboard/files/HASH/lib/`.

const BASE = new URL("../../../../", import.meta.url);
const TIMEOUT_MS = 30_000;

export class RequestError extends Error {
  constructor(status, message) {
    super(message);
    this.name = "RequestError";
    this.status = status; // 0: no answer
  }
}

/** Return the address of a path of Orthanc, as `/scripts`. */
export function address(path) {
  return new URL(path.replace(/^\/+/, ""), BASE).href;
}

/** Return a path with parameters; those that are null, undefined or empty are left out. */
export function withQuery(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = given.map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`).join("&");
  return query ? `${path}?${query}` : path;
}

async function request(method, path, body, signal) {
  const controller = new AbortController();
  const abort = () => controller.abort();
  const timer = setTimeout(abort, TIMEOUT_MS);
  signal?.addEventListener("abort", abort);
  try {
    const options = { method, cache: "no-store", credentials: "same-origin", redirect: "error", signal: controller.signal };
    if (body !== undefined) {
      options.body = JSON.stringify(body);
      options.headers = { "Content-Type": "application/json" };
    }
    const response = await fetch(address(path), options);
    const text = await response.text();
    let content = text;
    try {
      content = JSON.parse(text);
    } catch {
      // a plain text, or a page of a proxy
    }
    if (!response.ok) {
      throw new RequestError(response.status, messageOf(response, content));
    }
    return content;
  } catch (error) {
    if (error instanceof RequestError || signal?.aborted) {
      throw error;
    }
    throw new RequestError(0, "The server does not answer");
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}

function messageOf(response, content) {
  const said = content && typeof content === "object" && (content.Details || content.Message);
  if (said) {
    return String(said);
  }
  const known = {
    401: "Orthanc does not know who you are: load the page again",
    403: "You may not do this here",
    404: "There is no such thing here (any more)",
  };
  return known[response.status] || `The server answered ${response.status} ${response.statusText}`;
}

export const get = (path, signal) => request("GET", path, undefined, signal);
export const post = (path, body = {}) => request("POST", path, body);
export const drop = (path) => request("DELETE", path);
