// The page's handler (index.js), and the troubles that a job asks for.
const fs = require('node:fs');
const {setTimeout: pass} = require('node:timers/promises');
const functions = require('@google-cloud/functions-framework');
const {getFunction} = require('@google-cloud/functions-framework/testing');
const {Storage} = require('@google-cloud/storage');
const {ExternalAccountAuthorizedUserClient} = require('google-auth-library');
const {google} = require('googleapis');

require('./index.js');
const page = getFunction('greet');

const DRIVE = 'https://www.googleapis.com/auth/drive.readonly';
let kept;

const load = credentials => new ExternalAccountAuthorizedUserClient(credentials);

async function mustBeRefused(credentials, what) {
  try {
    await load(credentials).getAccessToken();
  } catch (error) {
    if (error.message.includes('invalid_grant')) return;
    throw error;
  }
  throw new Error(what);
}

async function store(job) {
  const authClient = load(job.credentials);
  const storage = new Storage({projectId: 'fake', authClient});
  const file = storage.bucket('exports').file(`node/${job.user} 1.txt`);
  await file.save(job.params.title);
  const [content] = await file.download();
  if (content.toString() !== job.params.title) throw new Error('another content');
  const [files] = await storage.bucket('exports').getFiles({prefix: 'node/'});
  if (!files.some(found => found.name === file.name)) throw new Error('not listed');
}

functions.http('greet', async (req, res) => {
  const job = req.body;
  const {says, other, seconds} = job.params;
  // For the test alone, which looks for them in everything that was written.
  fs.appendFileSync(process.env.HANDLES, `${job.credentials.client_secret}\n`);
  if (says === 'raise' && job.attempt === 1) throw new Error('before the effect');
  if (says === 'crash' && job.attempt === 1) process.kill(process.pid, 'SIGKILL');
  if (says === 'slow') await pass(seconds * 1000);
  if (says === 'kept') await mustBeRefused(kept, 'a handle outlived its job');
  if (says === 'other') {
    await mustBeRefused({...job.credentials, refresh_token: other}, "another user's token");
  }
  if (says === 'store') await store(job);
  if (says === 'drive') {
    const rootUrl = `${process.env.FLEET_API_ROOT}/`;
    try {
      await google.drive({version: 'v3', auth: load(job.credentials), rootUrl}).files.list();
    } catch (error) {
      const challenge = error.response.headers.get('www-authenticate');
      res.set('www-authenticate', challenge).status(error.response.status).end();
      return;
    }
  }
  if (says === 'raise after' || says === 'noted') {
    await page(req, {json: () => {}});
    if (says === 'noted') {
      const {token_uri, client_secret, refresh_token} = job.credentials;
      const form = {grant_type: 'refresh_token', client_secret, refresh_token, scope: DRIVE};
      const answer = await fetch(token_uri, {method: 'POST', body: new URLSearchParams(form)});
      if (answer.status !== 400) throw new Error(`status ${answer.status}`);
    }
    throw new Error('after the effect');
  }
  if (says === 'linger') {
    await page(req, {json: () => {}});
    console.log('lingers');
    await pass(seconds * 1000);
    console.log('has ended');
    res.end();
    return;
  }
  if (says === 'keep') kept = job.credentials;
  await page(req, res);
});
