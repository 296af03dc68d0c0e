(function () {
  'use strict';
  var LEVELS = {study: 'studies', series: 'series', instance: 'instances'};

  function addPicture(place, level, id, size) {
    var image = document.createElement('img');
    image.className = 'series-thumbnail';
    image.alt = '';
    image.loading = 'lazy';
    image.width = image.height = size;
    image.style.cssText = 'position: absolute; left: 15px; top: 12px; object-fit: contain';
    place.style.position = 'relative';
    image.onload = function () {
      place.style.paddingLeft = size + 27 + 'px';
      place.style.minHeight = size + 8 + 'px';
    };
    image.onerror = function () { image.remove(); };
    image.src = '../' + LEVELS[level] + '/' + id + '/thumbnail?format=jpeg';
    place.insertBefore(image, place.firstChild);
  }

  function addToLists() {
    document.querySelectorAll('li a[href*="uuid="]:not([data-thumbnail])').forEach(function (link) {
      var found = /#(study|series|instance)\?uuid=([0-9a-f-]{44})$/.exec(link.getAttribute('href'));
      link.setAttribute('data-thumbnail', found ? found[1] : '');
      if (found && link.querySelector('h3')) {
        addPicture(link, found[1], found[2], 64);
      }
    });
  }

  function addToPages() {
    ['study', 'series'].forEach(function (level) {
      var found = new RegExp('#' + level + '\\?uuid=([0-9a-f-]{44})').exec(window.location.hash);
      document.querySelectorAll('#' + level + '-info > li').forEach(function (item) {
        if (found && item.querySelector('h3') && !item.querySelector('.series-thumbnail, a')) {
          addPicture(item, level, found[1], 128);
        }
      });
    });
  }

  new MutationObserver(function () { addToLists(); addToPages(); })
    .observe(document.documentElement, {childList: true, subtree: true});
})();
