// The panels, in the order of the navigation. How one is made: docs/dashboard.md.

import audit from "./audit.js";
import deliveries from "./deliveries.js";
import destinations from "./destinations.js";
import flow from "./flow.js";
import jobs from "./jobs.js";
import retention from "./retention.js";
import scripts from "./scripts.js";

export const PANELS = [flow, destinations, deliveries, jobs, retention, audit, scripts];
