// Pub/Sub as Google's client for Node offers it; PUBSUB_EMULATOR_HOST says where.
'use strict';

const assert = require('assert/strict');
const {PubSub} = require('@google-cloud/pubsub');
const {feature, refuses, run, unique, until} = require('./features');

// The emulators ask for no credentials, and nobody is to look for some.
process.env.METADATA_SERVER_DETECTION = 'none';
const client = new PubSub({projectId: unique('conformance')});

async function both(options = {}) {
  const [topic] = await client.createTopic(unique('t'));
  const [subscription] = await topic.createSubscription(unique('s'), options);
  return [topic, subscription];
}

// So many messages from a subscription, each of which `settle` ends.
function receive(subscription, wanted, settle = message => message.ack()) {
  const found = [];
  const received = new Promise((resolve, reject) => {
    subscription.on('error', reject);
    subscription.on('message', async message => {
      try {
        await settle(message, found.length);
        found.push(message);
        if (found.length === wanted) resolve(found);
      } catch (error) {
        reject(error);
      }
    });
  });
  return until(20, received).finally(() => subscription.close());
}

feature('topic: create, get, exists, delete', async () => {
  const [topic] = await client.createTopic(unique('t'));
  assert.equal((await topic.getMetadata())[0].name, topic.name);
  assert.deepEqual(await topic.exists(), [true]);
  await topic.delete();
  assert.deepEqual(await topic.exists(), [false]);
});

feature('topic: create twice is refused', async () => {
  const [topic] = await client.createTopic(unique('t'));
  await refuses(6, () => client.createTopic(topic.name));
});

feature('topic: labels by setMetadata', async () => {
  const [topic] = await client.createTopic(unique('t'));
  await topic.setMetadata({labels: {a: '1'}});
  assert.deepEqual((await topic.getMetadata())[0].labels, {a: '1'});
});

feature('topic: list', async () => {
  const [topic] = await client.createTopic(unique('t'));
  const [topics] = await client.getTopics();
  assert.ok(topics.some(found => found.name === topic.name));
});

feature('publish: messages with attributes', async () => {
  const [topic, subscription] = await both();
  const id = await topic.publishMessage({data: Buffer.from('a'), attributes: {kind: 'note'}});
  const [message] = await receive(subscription, 1);
  assert.deepEqual([message.id, message.data.toString(), message.attributes],
    [id, 'a', {kind: 'note'}]);
});

feature('publish: batches', async () => {
  const [topic, subscription] = await both();
  topic.setPublishOptions({batching: {maxMessages: 50, maxMilliseconds: 20}});
  const sent = [...Array(200).keys()].map(n => topic.publishMessage({data: Buffer.from(`${n}`)}));
  assert.equal(new Set(await Promise.all(sent)).size, 200);
  assert.equal(new Set((await receive(subscription, 200)).map(m => m.id)).size, 200);
});

feature('publish: order within a key', async () => {
  const [topic, subscription] = await both({enableMessageOrdering: true});
  topic.setPublishOptions({messageOrdering: true});
  for (let n = 0; n < 20; n++) topic.publishMessage({data: Buffer.from(`${n}`), orderingKey: 'k'});
  const found = (await receive(subscription, 20)).map(message => Number(message.data));
  assert.deepEqual(found, [...Array(20).keys()]);
});

feature('publish: to a missing topic is refused', async () => {
  await refuses(5, () => client.topic(unique('t')).publishMessage({data: Buffer.from('a')}));
});

feature('publish: 9.9 MB arrive', async () => {
  const [topic, subscription] = await both();
  await topic.publishMessage({data: Buffer.alloc(9_900_000, 'x')});
  const [message] = await receive(subscription, 1);
  assert.equal(message.length, 9_900_000);
});

feature('subscription: settings kept and updated', async () => {
  const [, subscription] = await both({
    ackDeadlineSeconds: 30,
    retryPolicy: {minimumBackoff: {seconds: 5}, maximumBackoff: {seconds: 60}},
    expirationPolicy: {ttl: {seconds: 14 * 86400}},
  });
  await subscription.setMetadata({ackDeadlineSeconds: 60, labels: {a: '1'}});
  const [found] = await subscription.getMetadata();
  assert.deepEqual([found.ackDeadlineSeconds, found.labels], [60, {a: '1'}]);
  assert.equal(Number(found.retryPolicy.minimumBackoff.seconds), 5);
});

feature('subscription: filter', async () => {
  const [topic, subscription] = await both({filter: 'attributes.a = "1"'});
  await topic.publishMessage({data: Buffer.from('no'), attributes: {a: '2'}});
  await topic.publishMessage({data: Buffer.from('yes'), attributes: {a: '1'}});
  const [message] = await receive(subscription, 1);
  assert.equal(message.data.toString(), 'yes');
});

feature('subscription: a nack brings it again', async () => {
  const [topic, subscription] = await both();
  await topic.publishMessage({data: Buffer.from('a')});
  const settle = (message, nth) => (nth === 0 ? message.nack() : message.ack());
  const [first, second] = await receive(subscription, 2, settle);
  assert.equal(first.id, second.id);
});

feature('subscription: exactly once', async () => {
  const [topic, subscription] = await both({enableExactlyOnceDelivery: true});
  await topic.publishMessage({data: Buffer.from('a')});
  await receive(subscription, 1, message => message.ackWithResponse());
});

feature('subscription: dead letters', async () => {
  const [dead, watcher] = await both();
  const [topic, subscription] = await both({
    deadLetterPolicy: {deadLetterTopic: dead.name, maxDeliveryAttempts: 5},
  });
  await topic.publishMessage({data: Buffer.from('bad')});
  const attempts = await receive(subscription, 5, message => message.nack());
  assert.deepEqual(attempts.map(message => message.deliveryAttempt), [1, 2, 3, 4, 5]);
  const [message] = await receive(watcher, 1);
  assert.equal(message.data.toString(), 'bad');
});

feature('subscription: seek to a time ahead', async () => {
  const [topic, subscription] = await both();
  await topic.publishMessage({data: Buffer.from('before')});
  await subscription.seek(new Date(Date.now() + 60_000));
  await topic.publishMessage({data: Buffer.from('after')});
  const [message] = await receive(subscription, 1);
  assert.equal(message.data.toString(), 'after');
});

feature('snapshot: create, seek, list, delete', async () => {
  const [topic, subscription] = await both();
  await topic.publishMessage({data: Buffer.from('a')});
  const [snapshot] = await subscription.createSnapshot(unique('n'));
  await receive(subscription, 1, message => message.ack());
  await subscription.seek(snapshot.name.split('/').pop());
  const again = topic.subscription(subscription.name);
  assert.equal((await receive(again, 1))[0].data.toString(), 'a');
  const [snapshots] = await client.getSnapshots();
  assert.ok(snapshots.some(found => found.name === snapshot.name));
  await snapshot.delete();
});

feature('subscription: detach', async () => {
  const [, subscription] = await both();
  await client.detachSubscription(subscription.name);
  assert.deepEqual(await subscription.detached(), [true]);
});

feature('subscription: push config', async () => {
  const [, subscription] = await both();
  await subscription.modifyPushConfig({pushEndpoint: 'http://127.0.0.1:9/push'});
  const [found] = await subscription.getMetadata();
  assert.equal(found.pushConfig.pushEndpoint, 'http://127.0.0.1:9/push');
});

feature('topic: IAM', async () => {
  const [topic] = await client.createTopic(unique('t'));
  await topic.iam.setPolicy({bindings: [{role: 'roles/pubsub.viewer', members: ['user:ann@example.com']}]});
  const [policy] = await topic.iam.getPolicy();
  assert.equal(policy.bindings[0].role, 'roles/pubsub.viewer');
  const [granted] = await topic.iam.testPermissions(['pubsub.topics.publish']);
  assert.deepEqual(granted, {'pubsub.topics.publish': true});
});

feature('schema: create', async () => {
  const definition = JSON.stringify({type: 'record', name: 'N', fields: [{name: 'a', type: 'string'}]});
  await client.createSchema(unique('s'), 'AVRO', definition);
});

run();
