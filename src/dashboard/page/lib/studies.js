// What studies are called: lists of scripts have Orthanc's identifiers, people know patients and dates.

import { html, useContext, useEffect, useState } from "../vendor/preact.js";
import { address, get, post } from "./api.js";
import { moment } from "./format.js";
import { Shared, Text } from "./ui.js";

const KEPT = 500; // studies that are remembered
const FOUND = 20; // studies that a search looks at
const known = new Map();

/** Ask for a study once; null: it is not here. Other failures are asked again. */
function study(id) {
  if (!known.has(id)) {
    if (known.size >= KEPT) {
      known.delete(known.keys().next().value);
    }
    const asked = get(`/studies/${encodeURIComponent(id)}`).catch((error) => {
      if (error.status !== 404) {
        known.delete(id);
      }
      return null;
    });
    known.set(id, asked);
  }
  return known.get(id);
}

/** Return what is known of a study, or undefined as long as it is not. */
export function useStudy(id) {
  const [found, setFound] = useState(undefined);
  useEffect(() => {
    let ended = false;
    setFound(undefined);
    if (id) {
      study(id).then((each) => ended || setFound(each));
    }
    return () => {
      ended = true;
    };
  }, [id]);
  return found;
}

/** Return the day of a DICOM date (YYYYMMDD) as `2026-01-31`; anything else as it is. */
export const day = (text) => String(text ?? "").replace(/^(\d{4})(\d\d)(\d\d)$/, "$1-$2-$3");

/** A study in two lines: patient, then date and description; its identifier where it is not here. */
export function StudyName({ id, level = "Study", resource }) {
  const found = useStudy(id);
  if (!found) {
    return html`<span class="quiet"><${Text}>${level} ${(id ?? resource ?? "").slice(0, 17)}…<//>${found === null ? html`<small>not here any more</small>` : null}</span>`;
  }
  const patient = found.PatientMainDicomTags ?? {};
  const tags = found.MainDicomTags ?? {};
  const said = [day(tags.StudyDate), tags.StudyDescription].filter(Boolean).join(" · ");
  return html`<${Text}>${patient.PatientID || "(no PatientID)"}<//>${patient.PatientName ? html` <span class="quiet"><${Text}>${patient.PatientName}<//></span>` : null}
    <small><${Text}>${said || tags.StudyInstanceUID || ""}<//></small>`;
}

/** Find studies by PatientID, AccessionNumber, StudyInstanceUID, or Orthanc's identifier; return identifiers. */
export async function findStudies(text) {
  if (/^[0-9a-f]{8}(-[0-9a-f]{8}){4}$/.test(text)) {
    return [text];
  }
  const escaped = text.replace(/[\\*?]/g, "?"); // no wildcards of a person's, and no list of values
  const queries = ["PatientID", "AccessionNumber", "StudyInstanceUID"].map((tag) =>
    post("/tools/find", { Level: "Study", Query: { [tag]: escaped }, Limit: FOUND }),
  );
  const found = await Promise.all(queries);
  return [...new Set(found.flat())].slice(0, FOUND);
}

/** The series of a study as small pictures, where series_thumbnail draws them. */
export function Thumbnails({ id }) {
  const { summary } = useContext(Shared);
  const [series, setSeries] = useState([]);
  const draws = summary.Scripts.some((each) => each.Name === "series_thumbnail" && each.State === "running");
  useEffect(() => {
    let ended = false;
    if (draws && id) {
      get(`/studies/${encodeURIComponent(id)}`).then(
        (found) => ended || setSeries((found.Series ?? []).slice(0, 12)),
        () => undefined,
      );
    }
    return () => {
      ended = true;
    };
  }, [id, draws]);
  return series.length
    ? html`<ul class="thumbnails">${series.map((each) => html`<li key=${each}><img src=${address(`/series/${each}/thumbnail?size=96`)} alt="A series of the study" width="96" height="96" loading="lazy" /></li>`)}</ul>`
    : null;
}

export const newestFirst = (one, other) => (moment(other)?.getTime() ?? 0) - (moment(one)?.getTime() ?? 0);
