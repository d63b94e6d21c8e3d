// scripts/grafana.json, held against /metrics: every expression is one, and asks for what is there.
//
//   with-baton node grafana.mjs PROMTOOL
//
// What only Grafana itself could say, how it looks, is not checked.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { check, done, url } from './tap.mjs';

const { BATON_ADMIN_URL } = process.env;
const [promtool] = process.argv.slice(2);
const run = promisify(execFile);
const dashboard = JSON.parse(await readFile(new URL('../../scripts/grafana.json', import.meta.url), 'utf8'));
const { panels } = dashboard;
const targets = panels.flatMap(panel => panel.targets.map(target => ({ ...target, panel })));
const variables = new Map(dashboard.templating.list.map(variable => [variable.name, variable]));

/** Prometheus adds these to all that it scrapes. */
const SCRAPED = ['job', 'instance'];

/** What Grafana would put in the place of its variables. */
const asked = expression => expression
  .replaceAll('$__rate_interval', '1m').replaceAll('$__interval', '15s').replaceAll('$__range', '1h')
  .replace(/\$\{?(\w+)\}?/g, (_, name) => {
    assert.ok(variables.has(name), `there is no variable ${name}`);
    return '.*';
  });

/** Names that are measured, each with its labels. */
async function measured() {
  // A connection that has been closed, for its reason.
  await fetch(url('/healthz', 'http'), { headers: { Connection: 'close' } });
  const names = new Map();
  for (;;) {
    const page = await (await fetch(`${BATON_ADMIN_URL}/metrics`)).text();
    for (const line of page.split('\n')) {
      const [, name, labels = ''] = /^(\w+)(?:\{(.*)\})? /.exec(line) ?? [];
      const known = names.get(name) ?? new Set();
      for (const [, label] of labels.matchAll(/(\w+)="/g)) known.add(label);
      if (name) names.set(name, known);
    }
    if (names.has('baton_closed_connections_total')) return names;
    await new Promise(resolve => setTimeout(resolve, 50));
  }
}

await check('every expression parses', async () => {
  const rules = targets.map(({ expr }, n) => ({ record: `r${n}`, expr: asked(expr) }));
  const directory = await mkdtemp(join(tmpdir(), 'grafana-'));
  try {
    const file = join(directory, 'rules.yml');
    await writeFile(file, JSON.stringify({ groups: [{ name: 'dashboard', rules }] }));     // which is YAML, too
    const { stdout } = await run(promtool, ['check', 'rules', '--lint=none', file]);
    assert.match(stdout, new RegExp(`SUCCESS: ${rules.length} rules`));
  } finally {
    await rm(directory, { recursive: true });
  }
});

await check('and asks for what is measured', async () => {
  const names = await measured();
  for (const { expr, legendFormat = '', panel } of targets) {
    const where = `${panel.title}: ${expr}`;
    const known = new Set(SCRAPED);
    const metrics = [...expr.matchAll(/\bbaton_\w+/g)].map(([name]) => name);
    assert.ok(metrics.length > 0, `${where}: names nothing of ours`);
    for (const name of metrics) {
      assert.ok(names.has(name), `${where}: ${name} is not in /metrics`);
      names.get(name).forEach(label => known.add(label));
    }
    const selected = [...expr.matchAll(/\{([^}]*)\}/g)].flatMap(([, all]) => [...all.matchAll(/(\w+)\s*(?:=~|!~|!=|=)/g)]);
    const grouped = [...expr.matchAll(/\b(?:by|without)\s*\(([^)]*)\)/g)].flatMap(([, all]) => [...all.matchAll(/\w+/g)]);
    for (const label of [...selected.map(one => one[1]), ...grouped.map(one => one[0])]) {
      assert.ok(known.has(label), `${where}: nothing has the label ${label}`);
    }
    // A legend names what the expression leaves.
    const left = /\bsum\b/.test(expr) ? new Set(grouped.map(one => one[0])) : known;
    for (const [, label] of legendFormat.matchAll(/\{\{\s*(\w+)\s*\}\}/g)) {
      assert.ok(left.has(label), `${where}: the legend's ${label} is not there`);
    }
  }
});

await check('what every panel needs is there', async () => {
  assert.ok(dashboard.schemaVersion >= 36 && dashboard.schemaVersion <= 42, 'since Grafana 9 datasources are objects');
  assert.equal(variables.get('datasource')?.type, 'datasource');
  assert.equal(variables.get('datasource').query, 'prometheus');
  assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length, 'each has a number of its own');
  const taken = new Set();
  for (const { title, type, datasource, gridPos: { x, y, w, h }, targets } of panels) {
    assert.ok(['stat', 'timeseries'].includes(type), `${title}: ${type}`);
    assert.deepEqual(datasource, { type: 'prometheus', uid: '${datasource}' }, title);
    assert.equal(new Set(targets.map(({ refId }) => refId)).size, targets.length, title);
    assert.ok(x + w <= 24, `${title}: too far to the right`);
    for (let column = x; column < x + w; column++) {
      for (let row = y; row < y + h; row++) {
        assert.ok(!taken.has(`${column} ${row}`), `${title}: over another`);
        taken.add(`${column} ${row}`);
      }
    }
  }
  const { datasource, query } = variables.get('job');
  assert.deepEqual(datasource, { type: 'prometheus', uid: '${datasource}' });
  assert.match(query, /^label_values\(baton_\w+, job\)$/);
});

done();
