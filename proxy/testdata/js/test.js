// What a client of etcd in JavaScript does, against the endpoint that is the first
// argument. It ends with an error if anything is not as etcd would answer.
'use strict';

const assert = require('node:assert');
const { Etcd3 } = require('etcd3');

const client = new Etcd3({ hosts: process.argv[2] });

const steps = {
  async 'put and get'() {
    assert.strictEqual(await client.get('k').string(), null);
    await client.put('k').value('1');
    for (let i = 0; i < 20; i++) assert.strictEqual(await client.get('k').string(), '1');
    const prev = await client.put('k').value('2').getPrevious();
    assert.strictEqual(prev.value.toString(), '1');
    assert.strictEqual(await client.get('k').string(), '2');
    assert.strictEqual(await client.get('k').exists(), true);
  },
  async 'numbers, buffers and unicode'() {
    await client.put('n').value(42);
    assert.strictEqual(await client.get('n').number(), 42);
    const bytes = Buffer.from([0, 255, 128]);
    await client.put('b').value(bytes);
    assert.deepStrictEqual(await client.get('b').buffer(), bytes);
    await client.put('ключ').value('значение');
    assert.strictEqual(await client.get('ключ').string(), 'значение');
  },
  async prefix() {
    for (const x of ['c', 'a', 'b']) await client.put('p/' + x).value(x.toUpperCase());
    assert.deepStrictEqual(await client.getAll().prefix('p/').strings(), { 'p/a': 'A', 'p/b': 'B', 'p/c': 'C' });
    assert.deepStrictEqual(await client.getAll().prefix('p/').sort('Key', 'Descend').limit(2).keys(), ['p/c', 'p/b']);
    assert.strictEqual(await client.getAll().prefix('p/').count(), 3);
    assert.deepStrictEqual(await client.namespace('p/').getAll().keys(), ['a', 'b', 'c']);
  },
  async delete() {
    assert.strictEqual((await client.delete().key('p/a')).deleted, '1');
    assert.strictEqual((await client.delete().prefix('p/')).deleted, '2');
    assert.strictEqual(await client.getAll().prefix('p/').count(), 0);
  },
  async transaction() {
    const swap = (from, to) => client.if('t', 'Value', '==', from).then(client.put('t').value(to)).else(client.get('t')).commit();
    await client.put('t').value('1');
    assert.strictEqual(await client.get('t').string(), '1');
    assert.strictEqual((await swap('1', '2')).succeeded, true);
    const failed = await swap('1', '3');
    assert.strictEqual(failed.succeeded, false);
    assert.strictEqual(failed.responses[0].response_range.kvs[0].value.toString(), '2');
    const created = await client.if('t', 'Create', '==', 0).then(client.put('t').value('4')).commit();
    assert.strictEqual(created.succeeded, false);
  },
  async lease() {
    const lease = client.lease(30);
    await lease.put('l').value('leased');
    assert.strictEqual(await client.get('l').string(), 'leased');
    await lease.keepaliveOnce();
    await lease.revoke();
    assert.strictEqual(await client.get('l').string(), null);
  },
  async watch() {
    const watcher = await client.watch().prefix('w/').create();
    const seen = [];
    const done = new Promise(resolve => {
      watcher.on('put', kv => seen.push(`put ${kv.key} ${kv.value}`));
      watcher.on('delete', kv => { seen.push(`delete ${kv.key}`); resolve(); });
    });
    await client.put('w/a').value('1');
    await client.put('w/a').value('2');
    await client.delete().key('w/a');
    await done;
    assert.deepStrictEqual(seen, ['put w/a 1', 'put w/a 2', 'delete w/a']);
    await watcher.cancel();
  },
  async lock() {
    let held = 0, most = 0;
    await client.lock('mutex').ttl(30).do(async () => {
      await assert.rejects(client.lock('mutex').ttl(30).acquire());
      most = Math.max(most, ++held);
      held--;
    });
    const again = await client.lock('mutex').ttl(30).acquire();
    await again.release();
    assert.strictEqual(most, 1);
  },
  async election() {
    const election = client.election('post', 30);
    const campaign = election.campaign('me');
    await new Promise((resolve, reject) => { campaign.on('elected', resolve); campaign.on('error', reject); });
    assert.strictEqual(await election.leader(), 'me');
    await campaign.resign();
  },
  async errors() {
    await assert.rejects(client.put('').value('x'), /key is not provided/);
    await assert.rejects(client.put('k').value('x').lease('77'), /lease not found/);
  },
};

(async () => {
  for (const [name, step] of Object.entries(steps)) {
    await step();
    console.log('ok', name);
  }
  client.close();
})().catch(err => { console.error(err); process.exit(1); });
