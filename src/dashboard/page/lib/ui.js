// What panels are made of. All that comes from outside goes through `Text`.

import { createContext, html, useContext } from "../vendor/preact.js";
import { ago, atServer, local, moment, visible } from "./format.js";
import { useNow } from "./poll.js";

/** What all panels know: { summary, mayAct, act, say }. */
export const Shared = createContext({});

/** A text from outside, isolated from what is around it; nothing of it is hidden. */
export const Text = ({ children }) => html`<bdi>${visible([children].flat().join(""))}</bdi>`;

/** A moment: in the viewer's zone, the server's on hover; with `relative`, how long ago. */
export function Time({ at, relative = false }) {
  const { summary } = useContext(Shared);
  const now = useNow(5);
  const when = moment(at);
  if (!when) {
    return html`<span class="quiet">–</span>`;
  }
  const title = `${atServer(when, summary?.Server?.UtcOffsetSeconds ?? 0)} at the server`;
  const shown = relative ? ago(when, now) : local(when);
  return html`<time datetime=${when.toISOString()} title=${relative ? `${local(when)} here, ${title}` : title}>${shown}</time>`;
}

const KINDS = {
  up: "good", running: "good", done: "good", right: "good", Success: "good", configured: "good",
  away: "warn", waiting: "warn", paused: "warn", closed: "quiet", idle: "quiet", gone: "quiet", Paused: "warn", Retry: "warn",
  sending: "busy", Running: "busy", Pending: "quiet", dead: "bad", misconfigured: "bad", failed: "bad", Failure: "bad",
  orphaned: "bad", refused: "bad",
};
const WORDS = { dead: "failed for good", gone: "deleted here", sending: "being sent", up: "up" };

/** A state in one word, with a shape and a colour that say the same. */
export function State({ of, label }) {
  return html`<span class="state ${KINDS[of] ?? "quiet"}"><span class="dot" aria-hidden="true"></span>${visible(label ?? WORDS[of] ?? of)}</span>`;
}

/** One line for what went wrong, that a screen reader says at once. */
export const Problem = ({ error }) =>
  error ? html`<p class="problem" role="alert"><${Text}>${error.message ?? error}<//></p>` : null;

/** What stands where nothing is (yet). */
export const Empty = ({ title, children }) =>
  html`<div class="empty"><p class="empty-title">${title}</p>${children ? html`<p>${children}</p>` : null}</div>`;

export const Loading = ({ what = "" }) => html`<p class="loading quiet">Loading${what ? ` ${what}` : ""} …</p>`;

/** A button that acts; it is there only for those who may. */
export function ActButton({ onClick, danger = false, small = false, label, children }) {
  const { mayAct } = useContext(Shared);
  return mayAct
    ? html`<button type="button" class="${danger ? "danger" : ""} ${small ? "small" : ""}" aria-label=${label} onClick=${onClick}>${children}</button>`
    : null;
}

/** A figure with what it counts; `href` leads to where it comes from. */
export function Figure({ title, value, unit, note, kind = "", href }) {
  const content = html`<span class="figure-title">${title}</span>
    <span class="figure-value ${kind}">${value}${unit ? html` <span class="figure-unit">${unit}</span>` : null}</span>
    <span class="figure-note">${note ?? ""}</span>`;
  return href ? html`<a class="figure" href=${href}>${content}</a>` : html`<div class="figure">${content}</div>`;
}

/**
 * A table whose first column names the rows. `columns`: [{ title, of, kind }]. On a small screen each row is a block of its own;
 * the roles say that it is a table nevertheless.
 */
export function Table({ caption, columns, rows, keyOf, current }) {
  const cell = (column, row, index) =>
    index === 0
      ? html`<th scope="row" role="rowheader" class=${column.kind}>${column.of(row)}</th>`
      : html`<td role="cell" class=${column.kind} data-title=${column.title}>${column.of(row)}</td>`;
  return html`<div class="table">
    <table role="table">
      <caption class="hidden">${caption}</caption>
      <thead role="rowgroup"><tr role="row">
        ${columns.map((each) => html`<th scope="col" role="columnheader" class=${each.kind}>${each.title || html`<span class="hidden">Actions</span>`}</th>`)}
      </tr></thead>
      <tbody role="rowgroup">
        ${rows.map((row) => html`<tr role="row" key=${keyOf(row)} aria-current=${current && current(row) ? "true" : undefined}>${columns.map((column, index) => cell(column, row, index))}</tr>`)}
      </tbody>
    </table>
  </div>`;
}

/** A bar from 0 to 100 with its number. */
export const Progress = ({ value, label }) =>
  html`<span class="progress"><progress max="100" value=${value} aria-label=${label}></progress> <span class="quiet">${Math.round(value)} %</span></span>`;

/** Terms and what is said of them; those without a value are left out. */
export const Facts = ({ of }) =>
  html`<dl class="facts">${of
    .filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([term, value]) => html`<div key=${term}><dt>${term}</dt><dd>${value}</dd></div>`)}</dl>`;
