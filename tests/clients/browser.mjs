// The page at `/` in a real browser: headless Chromium against a running baton.
//
//   BATON_URL=http://127.0.0.1:8000 node tests/clients/browser.mjs
//
// BATON_WORKERS   how many workers there are (default 2; with 1, both tabs may share one)
// BATON_RUN_DIR, BATON_MASTER   where it runs, and the program to give it orders with: without them
//                 nothing is reloaded or killed
// CHROMIUM        the browser to run (default /usr/bin/chromium)
//
// Prints a line per check, as TAP does, and exits 1 if one failed, 2 if it could not begin.

import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { chromium } from 'playwright-core';

const { BATON_URL, BATON_WORKERS = '2', BATON_RUN_DIR, BATON_MASTER, CHROMIUM = '/usr/bin/chromium' } = process.env;
if (!BATON_URL) {
  console.error('browser.mjs: BATON_URL is not set');
  process.exit(2);
}

const TIMEOUT_MS = 10_000;
const ROOM = `tabs ${process.pid}/${Date.now()} ✓`;    // its own, and one that needs escaping in a URL
const complaints = [];                                // what any page said on its console
let number = 0, failed = 0;

async function check(name, body) {
  try {
    await body();
    console.log(`ok ${++number} - ${name}`);
  } catch (error) {
    failed++;
    console.log(`not ok ${++number} - ${name}\n${String(error.stack ?? error).replace(/^/gm, '  # ')}`);
  }
}

function assert(condition, message) {
  if (!condition) throw new Error(message);
}

// Chromium's sandbox refuses to run as root.
const args = process.getuid() === 0 ? ['--no-sandbox'] : [];
const browser = await chromium.launch({ executablePath: CHROMIUM, args });

/** A tab in a context of its own: nothing is shared with the others but the server. */
async function tab({ hash = `#${encodeURIComponent(ROOM)}`, before = () => {}, ...options } = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(TIMEOUT_MS);
  page.on('console', message => {
    if (['error', 'warning'].includes(message.type())) complaints.push(message.text());
  });
  page.on('pageerror', error => complaints.push(String(error)));
  page.on('requestfailed', request => complaints.push(`${request.url()} failed`));
  page.on('response', response => response.status() >= 400 && complaints.push(`${response.url()}: ${response.status()}`));
  page.on('dialog', dialog => { complaints.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  await before(page);
  await page.goto(new URL(`/${hash}`, BATON_URL).href);
  await connected(page);
  return page;
}

const close = page => page.context().close();
const text = (page, selector) => page.locator(selector).textContent();

/** Connected, and entered: the number present is known only then. */
async function connected(page) {
  await page.locator('#light[data-state=open]').waitFor();
  await until(page, '#count', /^[0-9]+$/);
}

async function until(page, selector, pattern) {
  const read = ([selector, source]) => new RegExp(source).test(document.querySelector(selector)?.textContent);
  await page.waitForFunction(read, [selector, pattern.source])
    .catch(async () => { throw new Error(`${selector} is "${await text(page, selector)}", not ${pattern}`); });
}

async function say(page, comment) {
  await page.fill('#text', comment);
  await page.press('#text', 'Enter');
}

/** The comment is flying, and in the log. Both are waited for at once: flying does not last. */
async function sees(page, comment, own = false) {
  const mine = own ? '.mine' : ':not(.mine)';
  await Promise.all(['#stage .comment', '#log li'].map(place =>
    page.locator(place + mine, { hasText: comment.slice(0, 40) }).first().waitFor({ state: 'attached' })));
}

/** Says it, and waits until the sender sees it as its own and each of the others as somebody else's. */
async function tell(from, comment, ...others) {
  await Promise.all([say(from, comment), sees(from, comment, true), ...others.map(other => sees(other, comment))]);
}

/**
 * Two tabs on different workers. A tab opens two connections, for the page and its socket, so under
 * round robin two tabs may get the same worker for ever: one connection in between changes the step.
 */
async function twoTabs() {
  const first = await tab();
  for (let tries = 0; tries < 30; tries++) {
    const second = await tab();
    if (BATON_WORKERS === '1' || await text(first, '#worker') !== await text(second, '#worker')) return [first, second];
    await close(second);
    await fetch(new URL('/whoami', BATON_URL), { headers: { connection: 'close' } });
  }
  throw new Error('30 tabs were all served by one worker');
}

let one, two;
await check('two tabs are connected to different workers', async () => {
  [one, two] = await twoTabs();
  for (const page of [one, two]) await until(page, '#process', /^pid [0-9]+, life [0-9]+$/);
});

if (one && two) {
  await check('both count two', async () => {
    await until(one, '#count', /^2$/);
    await until(two, '#count', /^2$/);
  });

  await check('each sees the other\'s comment and its own, on the stage and in the log', async () => {
    await one.fill('#nick', 'mia');
    await tell(one, 'from one: 你好 🎉', two);
    await tell(two, 'from two', one);
    assert((await text(two, '#log li:first-child bdi')) === 'mia', 'the nickname came along');
    assert((await one.locator('#log li').count()) === 2, 'each comment came once');
  });

  await check('both see the same order', async () => {
    for (let i = 0; i < 10; i++) await Promise.all([say(one, `one ${i}.`), say(two, `two ${i}.`)]);
    for (const page of [one, two]) await page.waitForFunction(() => document.querySelectorAll('#log li').length === 22);
    const [a, b] = await Promise.all([one, two].map(page => page.locator('#log li').allInnerTexts()));
    const said = lines => lines.map(line => line.replace(/^\S+\s/, ''));
    assert(said(a).join() === said(b).join(), `${said(a)}\n${said(b)}`);
  });

  await check('hostile text is shown as text', async () => {
    const hostile = '<img src=x onerror=alert(1)><script>alert(2)</script>"\'&lt;\u2028\\';
    await one.fill('#nick', '<b>mia</b>');
    await tell(one, hostile, two);
    assert((await two.locator('#log li').last().textContent()).includes(hostile), 'the text came unaltered');
    assert((await two.locator('#log bdi').last().textContent()) === '<b>mia</b>', 'the nickname came unaltered');
    assert((await two.locator(':is(#stage, #log) :is(img, script, b)').count()) === 0, 'no element came of it');
  });

  await check('the browser compresses what it says, and inflates what it hears', async () => {
    const [extensions, heard] = await one.evaluate(async () => {
      const socket = new WebSocket(`ws://${location.host}/rooms`);
      const next = () => new Promise(resolve =>
        socket.addEventListener('message', ({ data }) => resolve(JSON.parse(data)), { once: true }));
      await next();
      socket.send('{"id":1,"join":"deflate"}');
      await next();
      const text = 'häß 你好 🎉 '.repeat(2000);
      socket.send(JSON.stringify({ send: 'deflate', data: text }));
      const { data } = await next();
      socket.close();
      return [socket.extensions, data === text];
    });
    assert(extensions.startsWith('permessage-deflate'), extensions);
    assert(heard, 'what was said is what is heard');
  });

  await check('a refused room is said, and leaves the connection open', async () => {
    await one.fill('#room', '$reserved');
    await one.press('#room', 'Enter');
    await until(one, '#note', /./);
    assert((await one.locator('#light').getAttribute('data-state')) === 'open', 'the light went out');
  });

  await check('another room is another stage', async () => {
    await one.fill('#room', `${ROOM} annex`);
    await one.press('#room', 'Enter');
    await until(one, '#count', /^1$/);
    await until(two, '#count', /^1$/);
    await tell(two, 'for the first room');
    await tell(one, 'for the annex');
    assert((await one.locator('#log li').count()) === 1, 'the annex saw the first room');
    await one.goBack();
    await one.goBack();
    await until(one, '#count', /^2$/);
    assert((await one.inputValue('#room')) === ROOM, 'the URL names the room');
  });

  await check('a reloaded page is in the same room under the same nickname', async () => {
    await one.reload();
    await connected(one);
    await until(one, '#count', /^2$/);
    assert((await one.inputValue('#room')) === ROOM, 'the room was lost');
    assert((await one.inputValue('#nick')) === '<b>mia</b>', 'the nickname was lost');
    await tell(one, 'after the reload', two);
  });

  if (BATON_MASTER) {
    const order = async (...args) =>
      (await promisify(execFile)(BATON_MASTER, [...args, '--run-dir', BATON_RUN_DIR])).stdout;
    const status = async () => JSON.parse(await order('status', '--json'));
    const kill = which => async () => process.kill(which(await status()), 'SIGKILL');
    const states = page => page.evaluate(() => window.states);
    for (const page of [one, two]) {
      await page.evaluate(() => {
        const light = document.querySelector('#light');
        window.states = [light.dataset.state];
        new MutationObserver(() => window.states.push(light.dataset.state)).observe(light, { attributes: true });
      });
    }
    const events = {
      'a reload': () => order('reload'),
      'a kill -9 of a worker': kill(({ workers }) => workers[0].pid),
      'a kill -9 of a worker\'s guard': kill(({ workers }) => workers[1].guard_pid),
      'a kill -9 of the master': kill(({ master }) => master.brain_pid),
      'an upgrade': () => order('upgrade'),
      'one worker fewer': () => order('scale', `${BATON_WORKERS - 1}`),
      'one worker more': () => order('scale', BATON_WORKERS),
    };
    for (const [name, event] of Object.entries(events)) {
      await check(`${name} is not seen: the light does not flicker, and comments go on`, async () => {
        await event();
        await tell(one, `one, after ${name}`, two);
        await tell(two, `two, after ${name}`, one);
        for (const page of [one, two]) assert((await states(page)).join() === 'open', `${await states(page)}`);
      });
    }
  }

  await check('no tab had to reconnect', async () => {
    for (const page of [one, two]) assert((await text(page, '#reconnects')) === '0', 'the counter is not 0');
  });
}

await check('sent away by a bye, it waits as told, comes back, and counts that', async () => {
  let wire;
  const page = await tab({
    before: page => page.routeWebSocket('**/rooms', socket => { socket.connectToServer(); wire = socket; }),
  });
  wire.send('{"bye":{"retry_after_ms":1500}}');
  await wire.close({ code: 1001 });
  await page.locator('#light[data-state=waiting]').waitFor();
  const start = Date.now();
  await say(page, 'too early');
  await until(page, '#note', /not connected/);
  assert((await page.inputValue('#text')) === 'too early', 'what was not sent was thrown away');
  await connected(page);
  assert(Date.now() - start > 1000, 'it came back too early');
  await until(page, '#reconnects', /^1$/);
  await page.press('#text', 'Enter');
  await sees(page, 'too early', true);
  await close(page);
});

await check('it fits a phone', async () => {
  const page = await tab({ viewport: { width: 360, height: 640 }, isMobile: true, hasTouch: true });
  assert((await page.evaluate(() => document.documentElement.scrollWidth)) === 360, 'it scrolls sideways');
  await page.fill('#text', 'from a phone');
  await page.tap('#send');
  await sees(page, 'from a phone', true);
  await close(page);
});

await check('with reduced motion nothing flies', async () => {
  const page = await tab({ reducedMotion: 'reduce' });
  await say(page, 'standing');
  await page.locator('#stage .comment.still', { hasText: 'standing' }).waitFor();
  await close(page);
});

await check('nothing was said on any console', () => assert(complaints.length === 0, complaints.join('\n')));

await browser.close();
console.log(`1..${number}`);
process.exitCode = failed ? 1 : 0;
