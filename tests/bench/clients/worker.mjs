// A Pub/Sub worker that acts as its users, on Google's clients for Node: what a replica of the
// fleet is measured beside. A user's credential is read from the bucket once and kept in memory;
// google-auth-library renews it. A token is sent to FLEET_API_ROOT whatever host a job names.

import { PubSub } from '@google-cloud/pubsub';
import { Storage } from '@google-cloud/storage';
import { OAuth2Client } from 'google-auth-library';

const env = process.env;
const slots = Number(env.BENCH_SLOTS);
// The client takes the variable for the whole of a base URL, path included.
const apiEndpoint = env.STORAGE_EMULATOR_HOST;
delete env.STORAGE_EMULATOR_HOST;
const storage = new Storage({ apiEndpoint, projectId: env.GOOGLE_CLOUD_PROJECT });
const tokens = storage.bucket(env.FLEET_BUCKET);
const users = new Map();

async function load(user) {
  const [content] = await tokens.file(`users/${user}.json`).download();
  const kept = JSON.parse(content);
  const client = new OAuth2Client({
    clientId: kept.client_id,
    clientSecret: kept.client_secret,
    endpoints: { oauth2TokenUrl: kept.token_uri },
  });
  client.setCredentials({
    access_token: kept.token,
    refresh_token: kept.refresh_token,
    expiry_date: Date.parse(kept.expiry),
  });
  return client;
}

async function token(user) {
  if (!users.has(user)) users.set(user, load(user));
  const client = await users.get(user);
  return (await client.getAccessToken()).token;
}

async function call(url, options) {
  const answer = await fetch(url, options);
  if (!answer.ok) throw new Error(`${answer.status}`);
  return answer;
}

async function write(output, content) {
  const [, bucket, object] = /^gs:\/\/([^/]+)\/(.+)$/.exec(output);
  await storage.bucket(bucket).file(object).save(content, {
    resumable: false,
    preconditionOpts: { ifGenerationMatch: 0 },
  });
}

async function work(data) {
  const { user, kind, params } = JSON.parse(data);
  if (kind === 'forwarded') {
    const headers = { 'content-type': 'application/json' };
    await (await call(env.BENCH_HANDLER, { method: 'POST', headers, body: data })).text();
    return;
  }
  const headers = { authorization: `Bearer ${await token(user)}` };
  const asked = new URL(params.url);
  const url = new URL(asked.pathname + asked.search, env.FLEET_API_ROOT);
  let answer = await call(url, { headers });
  if (!params.paginate) {
    const content = await answer.arrayBuffer();
    if (params.output) await write(params.output, Buffer.from(content));
    return;
  }
  const lines = [];
  for (;;) {
    const page = await answer.json();
    for (const item of page.items) lines.push(JSON.stringify(item), '\n');
    if (!page.nextPageToken) break;
    url.search = new URLSearchParams({ pageToken: page.nextPageToken });
    answer = await call(url, { headers });
  }
  await write(params.output, lines.join(''));
}

const subscription = new PubSub({ projectId: env.GOOGLE_CLOUD_PROJECT })
  .subscription(env.FLEET_SUBSCRIPTION, { flowControl: { maxMessages: slots } });
subscription.on('message', (message) => {
  work(message.data).then(() => message.ack(), (error) => {
    console.error(error);
    message.nack();
  });
});
subscription.on('error', (error) => {
  console.error(error);
  process.exit(1);
});
process.stdin.resume().on('end', () => process.exit(0));
