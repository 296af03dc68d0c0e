// The panels, in the order of the navigation. How one is made: docs/dashboard.md.

import destinations from "./destinations.js";
import flow from "./flow.js";
import scripts from "./scripts.js";

export const FORWARDERS = ["auto_forward_modality", "auto_forward_peer", "auto_forward_dicomweb"];

export const PANELS = [flow, destinations, scripts];
