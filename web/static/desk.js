// What the pages do more with JavaScript than without: they change by themselves, and keys help.

// The overview comes anew by server-sent events; it is ours and escaped by the server.
const live = document.querySelector('[data-stream]');
if (live) {
  const told = document.querySelector('#freshness');
  const source = new EventSource(live.dataset.stream);
  const isUsed = (part) => part.contains(document.activeElement) || String(getSelection() ?? '') !== '';
  source.onmessage = (event) => {
    told.textContent = '';
    const fresh = new DOMParser().parseFromString(event.data, 'text/html');
    for (const part of fresh.querySelectorAll('[data-live]')) {
      const old = live.querySelector(`[data-live="${part.dataset.live}"]`);
      if (old && !isUsed(old)) old.replaceWith(document.adoptNode(part));
    }
  };
  source.onerror = () => { told.textContent = 'Not up to date: the server does not answer.'; };
  addEventListener('pagehide', () => source.close());
}

// On a phone the bar is wider than the screen: it shows where one is.
document.querySelector('nav [aria-current=page]')?.scrollIntoView({ block: 'nearest', inline: 'center' });

// A page about what is under way asks again for itself, as long as nobody uses it.
const reload = async () => {
  const part = document.querySelector('#reloaded[data-reload]');
  if (!part) return;
  const wait = Number(part.dataset.reload) * 1000;
  const isUsed = () => part.contains(document.activeElement) || String(getSelection() ?? '') !== '';
  if (!document.hidden && !isUsed()) {
    try {
      const answer = await fetch(location.href, { headers: { Accept: 'text/html' } });
      if (answer.ok && !answer.redirected) {
        const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
        const fresh = page.querySelector('#reloaded');
        if (fresh && !isUsed()) part.replaceWith(document.adoptNode(fresh));
      }
    } catch { /* the server is away: the page stays, and asks again */ }
  }
  setTimeout(reload, wait);
};
const first = document.querySelector('#reloaded[data-reload]');
if (first) setTimeout(reload, Number(first.dataset.reload) * 1000);

// All of a page are selected at once, and a range with the shift key; the choice tells how many.
const list = document.querySelector('#list');
if (list) {
  const boxes = [...list.querySelectorAll('tbody input[type=checkbox]')];
  const head = list.querySelector('thead .pick');
  const counted = list.querySelector('#count');
  const tell = () => {
    const many = boxes.filter((box) => box.checked).length;
    if (counted) counted.textContent = many ? `${many} selected` : 'the selected';
  };
  if (head && boxes.length) {
    const all = document.createElement('input');
    all.type = 'checkbox';
    all.setAttribute('aria-label', 'Select all on this page');
    all.addEventListener('change', () => { for (const box of boxes) box.checked = all.checked; tell(); });
    head.replaceChildren(all);
  }
  let last = -1;
  boxes.forEach((box, at) => box.addEventListener('click', (event) => {
    if (event.shiftKey && last >= 0) {
      const [from, to] = last < at ? [last, at] : [at, last];
      for (let i = from; i <= to; i += 1) boxes[i].checked = box.checked;
    }
    last = at;
    tell();
  }));
  tell();
}

// A form that changes something is sent once, however often it is clicked.
for (const form of document.querySelectorAll('form[data-once]')) {
  form.addEventListener('submit', (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = 'yes';
  });
}
addEventListener('pageshow', () => {
  for (const form of document.querySelectorAll('form[data-sent]')) delete form.dataset.sent;
});

// "/" leads to the search.
addEventListener('keydown', (event) => {
  const field = document.querySelector('[data-focus="/"]');
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? '');
  if (event.key === '/' && field && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    field.focus();
    field.select();
  }
});
