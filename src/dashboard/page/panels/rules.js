// What the rules of the forwarders say in words, and what they would do with a study, and why.

import { html, useContext, useState } from "../vendor/preact.js";
import { post } from "../lib/api.js";
import { counted } from "../lib/format.js";
import { useRoute } from "../lib/poll.js";
import { go, link } from "../lib/router.js";
import { findStudies, StudyName } from "../lib/studies.js";
import { Empty, Loading, Problem, Shared, Table, Text } from "../lib/ui.js";

const SCRIPTS = ["auto_forward_modality", "auto_forward_peer", "auto_forward_dicomweb"];
const TITLES = { auto_forward_modality: "To DICOM nodes", auto_forward_peer: "To Orthanc peers", auto_forward_dicomweb: "To DICOMweb servers" };
const PLURAL = { Patient: "patients", Study: "studies", Series: "series", Instance: "images" };
const ORIGINS = { remote_aet: "AE title", called_aet: "called AE title", remote_ip: "address", user: "user", method: "way in" };
const IN_WORDS = new Set(["Name", "Level", "Destinations", "Query", "Origin", "SOPClasses", "TransferSyntaxes", "Matcher", "Modify", "Priority"]);

const routeOf = (script) => `/${script.replaceAll("_", "-")}`;
const isEmpty = (value) => value === null || value === undefined || value === "" || (typeof value === "object" && !Object.keys(value).length);

/** Return values as `CT or MR`. */
const either = (values) => [values].flat().join(" or ");

/** Return the conditions of a rule, each as a part of a sentence. */
export function conditions(rule) {
  const query = Object.entries(rule.Query ?? {}).map(([tag, value]) => `whose ${tag} is ${either(String(value).split("\\"))}`);
  const origin = Object.entries(rule.Origin ?? {}).map(([key, values]) => `that came from the ${ORIGINS[key] ?? key} ${either(values)}`);
  const more = [
    rule.SOPClasses?.length ? `of the SOP class ${either(rule.SOPClasses)}` : "",
    rule.TransferSyntaxes?.length ? `in the transfer syntax ${either(rule.TransferSyntaxes)}` : "",
    rule.Matcher ? `that ${rule.Matcher} chooses` : "",
  ];
  return [...query, ...origin, ...more].filter(Boolean);
}

/** Return a rule as a sentence. */
export function sentence(rule) {
  const what = PLURAL[rule.Level] ?? rule.Level;
  const which = conditions(rule);
  const where = rule.Destinations === null ? (rule.Matcher ? "where it says" : "to every destination of the section") : rule.Destinations.length ? `to ${rule.Destinations.join(" and ")}` : "nowhere";
  return `${which.length ? `${what[0].toUpperCase()}${what.slice(1)} ${which.join(", ")}` : `All ${what}`} go ${where}${isEmpty(rule.Modify) ? "" : ", changed on the way"}.`;
}

function Rules({ script }) {
  const { data, error } = useRoute(`${routeOf(script)}/rules`, 30);
  if (!data) {
    return error ? html`<${Problem} error=${error} />` : html`<${Loading} what="rules" />`;
  }
  return html`<p class="quiet">${data.RuleMode === "first" ? "The first rule that fits decides." : "Every rule that fits counts."}</p>
    ${data.Rules.length
      ? html`<ol class="rules">${data.Rules.map((rule) => html`<li>
          <strong><${Text}>${rule.Name}<//></strong>: <${Text}>${sentence(rule)}<//>
          ${rule.Priority ? html` <span class="quiet">Priority ${rule.Priority}.</span>` : null}
          ${Object.entries(rule).filter(([key, value]) => !IN_WORDS.has(key) && !isEmpty(value)).map(([key, value]) => html`<small><${Text}>${key}: ${JSON.stringify(value)}<//></small>`)}
          ${isEmpty(rule.Modify) ? null : html`<details><summary>What is changed on the way</summary><pre tabindex="0"><${Text}>${JSON.stringify(rule.Modify)}<//></pre></details>`}
        </li>`)}</ol>`
      : html`<${Empty} title="No rule">Nothing is sent by itself.<//>`}`;
}

function Verdicts({ script, found }) {
  const goes = (rule) => Object.entries(rule.Destinations);
  const columns = [
    { title: "Rule", of: (rule) => html`<${Text}>${rule.Name}<//>` },
    { title: "Would send", of: (rule) => (goes(rule).length ? goes(rule).map(([name, count]) => html`<div>${counted(count, "image", "images")} to <${Text}>${name}<//></div>`) : html`<span class="quiet">nothing</span>`) },
    { title: "Why", kind: "long", of: (rule) => html`<${Text}>${rule.Why || "it fits"}<//>${rule.Modify ? html`<small><${Text}>changed: ${JSON.stringify(rule.Modify.Replace ?? rule.Modify)}<//></small>` : null}` },
  ];
  return html`<h3>${TITLES[script]}</h3><${Table} caption="What the rules would do: ${TITLES[script]}" columns=${columns} rows=${found.Rules} keyOf=${(rule) => rule.Name} />`;
}

function Try({ scripts, place }) {
  const { mayAct } = useContext(Shared);
  const [state, setState] = useState({ busy: false, studies: null, results: null, error: null });
  async function attempt(text) {
    setState({ busy: true, studies: null, results: null, error: null });
    try {
      const studies = await findStudies(text);
      const results = studies.length === 1 ? await Promise.all(scripts.map(async (script) => [script, await post(`${routeOf(script)}/rules/test`, { Resource: studies[0], Level: "Study" })])) : null;
      setState({ busy: false, studies, results, error: null });
    } catch (error) {
      setState({ busy: false, studies: null, results: null, error });
    }
  }
  function submit(event) {
    event.preventDefault();
    const text = String(new FormData(event.target).get("study") ?? "").trim();
    if (text) {
      go(link("rules", [], { study: text }));
      attempt(text);
    }
  }
  if (!mayAct) {
    return null;
  }
  const { busy, studies, results, error } = state;
  return html`<section aria-labelledby="try-title"><h2 id="try-title">Try the rules on a study</h2>
    <p class="quiet">Nothing is sent.</p>
    <form class="filters" role="search" onSubmit=${submit}>
      <label><span>Patient or study</span><input name="study" type="search" required defaultValue=${place.query.study ?? ""} placeholder="PatientID, accession number, UID" autocomplete="off" spellcheck=${false} /></label>
      <button type="submit" disabled=${busy}>${busy ? "Trying …" : "Try"}</button>
    </form>
    <div aria-live="polite">
      <${Problem} error=${error} />
      ${studies && !studies.length ? html`<p>No study here has this PatientID, accession number or UID.</p>` : null}
      ${studies && studies.length > 1 ? html`<p>Which one?</p><ul class="choice-list">${studies.map((id) => html`<li key=${id}><button type="button" onClick=${() => attempt(id)}><${StudyName} id=${id} /></button></li>`)}</ul>` : null}
      ${results ? html`<p><${StudyName} id=${studies[0]} /></p>${results.map(([script, found]) => html`<${Verdicts} key=${script} script=${script} found=${found} />`)}` : null}
    </div>
  </section>`;
}

function View({ summary, place }) {
  const scripts = SCRIPTS.filter((each) => summary.Scripts.some((one) => one.Name === each && one.State === "running"));
  if (!scripts.length) {
    return html`<${Empty} title="The forwarders do not run">See <a href=${link("scripts")}>Scripts</a> for why.<//>`;
  }
  return html`<div class="part">${scripts.map((script) => html`<section key=${script} aria-labelledby="rules-${script}"><h2 id="rules-${script}">${TITLES[script]}</h2><${Rules} script=${script} /></section>`)}</div>
    <${Try} scripts=${scripts} place=${place} />`;
}

export default {
  id: "rules",
  title: "Rules",
  scripts: SCRIPTS,
  absent: {
    title: "Nothing is forwarded here",
    gives: "A forwarder sends studies on by rules. This panel then says in words what each rule does, and what they would do with one study, and why.",
  },
  view: View,
};
