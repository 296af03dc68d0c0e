// The link to the dashboard in the head of Orthanc Explorer's pages, beside Lookup and Plugins.
(function () {
  'use strict';

  // Before jQuery Mobile makes a page of what is in the HTML: the link becomes a button like the others.
  $(document).on('pagebeforecreate', function (event) {
    var group = event.target.querySelector('[data-role=header] .ui-btn-left');
    if (!group || group.querySelector('.orthanc-dashboard') || !group.querySelector('a[href="#plugins"]')) {
      return;
    }
    var link = document.createElement('a');
    link.href = '../dashboard';
    link.className = 'orthanc-dashboard';
    link.rel = 'external';
    link.setAttribute('data-role', 'button');
    link.setAttribute('data-icon', 'info');
    link.textContent = 'Dashboard';
    group.appendChild(link);
  });
})();
