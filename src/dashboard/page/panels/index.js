// The panels, in the order of the navigation. How one is made: docs/dashboard.md.

import audit from "./audit.js";
import deidentification from "./deidentification.js";
import deliveries from "./deliveries.js";
import destinations from "./destinations.js";
import events from "./events.js";
import flow from "./flow.js";
import jobs from "./jobs.js";
import moves from "./moves.js";
import retention from "./retention.js";
import rules from "./rules.js";
import scripts from "./scripts.js";

export const PANELS = [flow, destinations, deliveries, rules, events, moves, deidentification, retention, audit, jobs, scripts];
