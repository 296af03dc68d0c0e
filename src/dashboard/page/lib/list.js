// Long lists: their pages, and their filters, which are in the address so that they can be linked.

import { html } from "../vendor/preact.js";
import { number } from "./format.js";
import { go, link } from "./router.js";

/** Where a page is in its list, and links to the newest and to older ones (addresses, or null). */
export function Pages({ total, shown, newer, older, what }) {
  return html`<nav class="pages" aria-label="Pages">
    <span class="quiet">${number(shown)} of ${number(total)} ${what}</span>
    ${newer ? html`<a class="button" href=${newer}>Newest</a>` : null}
    ${older ? html`<a class="button" href=${older}>Older</a>` : null}
  </nav>`;
}

/** A form whose fields go into the address. `fields`: [{ name, title, type, options, hint }]. */
export function Filters({ panel, parts = [], fields, query }) {
  function submit(event) {
    event.preventDefault();
    const data = new FormData(event.target);
    go(link(panel, parts, Object.fromEntries(fields.map(({ name }) => [name, String(data.get(name) ?? "").trim()]))));
  }
  return html`<div class="part"><form class="filters" role="search" onSubmit=${submit} key=${JSON.stringify(query)}>
    ${fields.map((each) => html`<label key=${each.name}><span>${each.title}</span>${field(each, query[each.name] ?? "")}</label>`)}
    <button type="submit">Show</button>
    ${fields.some(({ name }) => query[name]) ? html`<a class="button" href=${link(panel, parts)}>Clear</a>` : null}
  </form></div>`;
}

function field({ name, type = "search", options, hint }, value) {
  return options
    ? html`<select name=${name} onChange=${(event) => event.target.form.requestSubmit()}>
        ${options.map(([key, title]) => html`<option value=${key} selected=${key === value}>${title}</option>`)}
      </select>`
    : html`<input name=${name} type=${type} defaultValue=${value} placeholder=${hint ?? ""} autocomplete="off" spellcheck=${false} />`;
}
