// The page: its head, its panels, and what all of them share.

import { html, render, useCallback, useEffect, useRef, useState } from "./vendor/preact.js";
import { ActDialog } from "./lib/actions.js";
import { address, post } from "./lib/api.js";
import { ago, duration } from "./lib/format.js";
import { useNow, useRoute } from "./lib/poll.js";
import { link, useAddress } from "./lib/router.js";
import { Problem, Shared, Text } from "./lib/ui.js";
import { PANELS } from "./panels/index.js";

const SUMMARY_SECONDS = 3;
const ASK_AGAIN_MS = 60_000;

/** Ask whether this user may act: Orthanc's users and filters decide. */
function useMayAct() {
  const [mayAct, setMayAct] = useState(false);
  useEffect(() => {
    const ask = () => document.hidden || post("/dashboard/may-act").then(() => setMayAct(true), (error) => error.status && setMayAct(false));
    ask();
    const timer = setInterval(ask, ASK_AGAIN_MS);
    return () => clearInterval(timer);
  }, []);
  return mayAct;
}

/** Say something to screen readers. */
function useAnnouncer() {
  const [said, setSaid] = useState("");
  const say = useCallback((text) => {
    setSaid("");
    setTimeout(() => setSaid(String(text)), 50);
  }, []);
  return [html`<div class="hidden" role="status" aria-live="polite"><${Text}>${said}<//></div>`, say];
}

function Health({ summary, error, since }) {
  const now = useNow(1);
  if (error) {
    const lasts = since ? ` for ${duration((now - since) / 1000)}` : "";
    return html`<p class="health bad" role="alert">${error.status ? html`<${Text}>${error.message}<//>` : `The server has not answered${lasts}`}</p>`;
  }
  if (!summary) {
    return html`<p class="health">Looking …</p>`;
  }
  const acts = summary.Alerts.filter((each) => each.Level === "act").length;
  const kind = acts ? "bad" : summary.Alerts.length ? "warn" : "good";
  const text = acts ? `${acts} ${acts === 1 ? "thing needs" : "things need"} you` : summary.Alerts.length ? "Works, with a delay" : "All is well";
  return html`<p class="health ${kind}"><span class="dot" aria-hidden="true"></span>${text}<span class="updated"> · ${ago(new Date(summary.At), now)}</span></p>`;
}

function Navigation({ panels, current, summary }) {
  const list = useRef(null);
  useEffect(() => {
    const here = list.current?.querySelector("[aria-current]");
    here?.scrollIntoView({ block: "nearest", inline: "center" });
  }, [current]);
  return html`<nav class="panels" aria-label="Panels" ref=${list}>
    <ul>
      ${panels.map((each) => {
        const count = summary && each.badge ? each.badge(summary) : 0;
        return html`<li key=${each.id}><a href=${link(each.id)} aria-current=${each.id === current ? "page" : undefined}>
          ${each.title}${count ? html` <span class="badge">${count}<span class="hidden"> need attention</span></span>` : null}
        </a></li>`;
      })}
    </ul>
  </nav>`;
}

const fileOf = (name) => (name === "dicom_events" ? name : `${name}.py`); // the one that is a folder

/** What a panel says whose scripts are not there: the command has what is there already, so that nothing is left out. */
function Absent({ panel, names }) {
  const [file, ...others] = panel.scripts.map(fileOf);
  const files = [...(names.includes("dashboard") ? [] : ["dashboard"]), ...names].map(fileOf);
  return html`<div class="empty">
    <p class="empty-title">${panel.absent.title}</p>
    <p>${panel.absent.gives}</p>
    <p>Add <code>${file}</code>${others.length ? html` (or ${others.map((each, index) => html`${index ? ", " : ""}<code>${each}</code>`)})` : null} to
      your combined script: <code><${Text}>${["python3 combine.py", ...files, file, "-o all.py"].join(" ")}<//></code></p>
    ${file.startsWith("auto_forward") ? html`<p>Write its section first: without one, a forwarder sends each study to every destination that Orthanc knows.</p>` : null}
    <p>Scripts of your own go into the same command. Let <code>PythonScript</code> name the new file, and restart Orthanc.</p>
  </div>`;
}

function Panel({ panel, place, summary }) {
  const heading = useRef(null);
  useEffect(() => {
    document.title = `${panel.title} · ${summary?.Server?.Name ?? "Orthanc"}`;
  }, [panel, summary?.Server?.Name]);
  useEffect(() => heading.current && window.location.hash && heading.current.focus({ preventScroll: true }), [panel.id]);
  const names = (summary?.Scripts ?? []).map((each) => each.Name);
  const isThere = !panel.scripts || panel.scripts.some((each) => names.includes(each));
  const View = panel.view;
  return html`<main id="main" class="panel" tabindex="-1">
    <h1 ref=${heading} tabindex="-1">${panel.title}</h1>
    ${!summary ? html`<p class="loading quiet">Loading …</p>` : isThere ? html`<${View} key=${panel.id} place=${place} summary=${summary} />` : html`<${Absent} panel=${panel} names=${names} />`}
  </main>`;
}

function App() {
  const { data: summary, error, since, refresh } = useRoute("/dashboard/summary", SUMMARY_SECONDS);
  const mayAct = useMayAct();
  const [live, say] = useAnnouncer();
  const [asked, act] = useState(null);
  const place = useAddress();
  const panel = PANELS.find((each) => each.id === place.panel) ?? PANELS[0];
  const server = summary?.Server;
  const done = useCallback((asking) => act(asking && { ...asking, done: () => { asking.done?.(); refresh(); } }), [refresh]);
  return html`<${Shared.Provider} value=${{ summary, mayAct, act: done, say }}>
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main").focus(); }}>Skip to the panel</a>
    <header class="top">
      <a class="brand" href=${link(PANELS[0].id)}><img src=${new URL("icon.svg", import.meta.url).href} alt="" width="28" height="28" />
        <span><${Text}>${server?.Name ?? "Orthanc"}<//>${server ? html`<small>Orthanc ${server.Version} · <${Text}>${server.DicomAet ?? ""}<//></small>` : null}</span></a>
      <${Health} summary=${summary} error=${error} since=${since} />
    </header>
    <div class="body">
      <${Navigation} panels=${PANELS} current=${panel.id} summary=${summary} />
      ${!summary && error ? html`<main id="main" class="panel" tabindex="-1"><h1>${panel.title}</h1><${Problem} error=${error} /></main>` : html`<${Panel} panel=${panel} place=${place} summary=${summary} />`}
    </div>
    <footer class="bottom">
      <span>${mayAct ? "" : "This page only shows: you may not act here. "}Dashboard ${server?.DashboardVersion ?? ""}</span>
      <a href=${address("/app/explorer.html")}>Orthanc Explorer</a>
      <a href=${address("/dashboard/summary")}>As JSON</a>
      <a href=${new URL("vendor/LICENSES.txt", import.meta.url).href}>Licences</a>
    </footer>
    ${live}
    <${ActDialog} asked=${asked} onClose=${() => act(null)} say=${say} />
  <//>`;
}

const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
