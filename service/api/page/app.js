/* The page: photos come in, each gets a card, one is on the stage. */

import { Api } from './api.js';
import { Card } from './card.js';
import { openIntake } from './intake.js';
import { Photo } from './photo.js';
import { Settings } from './settings.js';
import { Stage } from './stage.js';
import { fits, zip } from './zip.js';

const TICK_MS = 500;
const KEPT_MS = 60_000; // a download that has begun by then needs its address no more

const $ = (id) => document.getElementById(id);
const cards = new Map(); // in the order of the list
let selected = null;

const api = new Api(askForKey);
const settings = new Settings($('settings'), update);
const stage = new Stage({ again, save });

function take(files) {
  for (const file of files) add(new Photo(api, file));
  if (files.length) announce(files.length === 1 ? `${files[0].name} added` : `${files.length} photos added`);
  update();
}

function add(photo) {
  const card = new Card(photo, { open, again, remove, save });
  let last = '';
  photo.addEventListener('change', () => {
    if (photo.state !== last) tell(photo);
    last = photo.state;
    update();
  });
  cards.set(photo, card);
  $('list').append(card.element);
  selected ??= photo;
  photo.start(settings.options);
}

function open(photo) {
  selected = photo;
  update();
  $('stage').scrollIntoView({ block: 'nearest' });
}

function again(photo) {
  selected = photo;
  photo.start(settings.options);
}

function remove(photo) {
  photo.cancel();
  const all = [...cards.keys()];
  const next = all[all.indexOf(photo) + 1] ?? all[all.indexOf(photo) - 1] ?? null;
  cards.get(photo).element.remove();
  cards.delete(photo);
  if (selected === photo) selected = next;
  draw(); // at once: what is hidden takes no focus
  if (next) cards.get(next).focus();
  else $('choose').focus();
}

function clear() {
  for (const photo of [...cards.keys()]) if (photo.ended) remove(photo);
}

function save(photo) {
  hand(photo.result.blob, photo.result.name);
}

async function saveAll() {
  const results = done().map((photo) => photo.result);
  if (results.length > 1 && fits(results)) hand(await zip(results), 'photos.zip');
  else for (const { blob, name } of results) hand(blob, name);
}

function hand(blob, name) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), KEPT_MS);
}

const done = () => [...cards.keys()].filter((photo) => photo.state === 'done');
const active = () => [...cards.keys()].filter((photo) => !photo.ended);

let due = false;

/* Everything anew, once a frame at most. */
function update() {
  if (due) return;
  due = true;
  setTimeout(draw, 16);
}

function draw() {
  due = false;
  for (const [photo, card] of cards) card.update(photo === selected);
  stage.update(selected, settings.options);
  const [ready, all] = [done().length, cards.size];
  $('photos').hidden = all === 0;
  $('photos-title').textContent = all === 1 ? '1 photo' : `${all} photos`;
  $('clear').hidden = active().length === all;
  $('save-all').hidden = ready < 2;
  $('save-all').querySelector('span').textContent = `Download all ${ready} as a zip`;
  document.title = active().length ? `${all - active().length} of ${all} · OMGSR Serve` : 'OMGSR Serve';
}

function tell(photo) {
  const { name, state, problem } = photo;
  if (state === 'done') announce(`${name} is ready`);
  if (state === 'failed') announce(`${name}: ${problem.title}. ${problem.detail} ${problem.advice}`);
  if (state === 'held') announce(`${name}: ${problem.title}. It is tried again.`);
  if (state === 'cancelled') announce(`${name} cancelled`);
}

/* The last few stay: of two at once the second must not take the first one's place. */
function announce(text) {
  const log = $('announce');
  log.append(Object.assign(document.createElement('p'), { textContent: text }));
  if (log.children.length > 5) log.firstChild.remove();
}

function askForKey(problem) {
  const form = $('key');
  form.hidden = false;
  $('key-why').textContent = problem.detail;
  if (document.activeElement === document.body) $('secret').focus();
  return new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      form.hidden = true;
      resolve($('secret').value.trim());
      form.reset();
    };
  });
}

openIntake(take);
$('clear').addEventListener('click', clear);
$('save-all').addEventListener('click', saveAll);
setInterval(() => active().length && update(), TICK_MS);
addEventListener('beforeunload', (event) => active().length && event.preventDefault());
settings.load(api);
