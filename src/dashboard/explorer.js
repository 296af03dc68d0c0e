// The link to the dashboard in the head of Orthanc Explorer's pages.
(function () {
  "use strict";
  const address = "../dashboard";
  function link() {
    for (const header of document.querySelectorAll("[data-role=header] > div:first-of-type, #lookup [data-role=header]")) {
      if (header.querySelector("a.orthanc-dashboard")) {
        continue;
      }
      const anchor = document.createElement("a");
      anchor.href = address;
      anchor.className = "orthanc-dashboard ui-btn ui-btn-inline ui-corner-all ui-mini";
      anchor.textContent = "Dashboard";
      anchor.setAttribute("data-ajax", "false");
      header.appendChild(anchor);
    }
  }
  $(document).on("pagebeforeshow", link);
})();
