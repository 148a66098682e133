// Google's APIs as Google's client for Node offers them; GOOGLE_EMULATOR_ORIGIN says where.
'use strict';

const assert = require('assert/strict');
const {Readable} = require('stream');
const {google} = require('googleapis');
const {feature, run, unique} = require('./features');

const rootUrl = `${process.env.GOOGLE_EMULATOR_ORIGIN}/`;
const users = JSON.parse(process.env.GOOGLE_EMULATOR_USERS);

// The token endpoint is the emulator's, too.
const auth = user => {
  const {client_id: clientId, client_secret: clientSecret, token_uri: url} = users[user];
  const client = new google.auth.OAuth2({clientId, clientSecret, endpoints: {oauth2TokenUrl: url}});
  client.setCredentials({refresh_token: users[user].refresh_token});
  return client;
};
const api = (name, version, user = 0) => google[name]({version, auth: auth(user), rootUrl});

const refused = async (status, reason, call) => {
  const error = await call.then(() => undefined, error => error);
  assert.ok(error, `${status} was wanted, and nothing was refused`);
  assert.equal(error.response?.status, status, error.message);
  assert.equal(error.response.data.error.errors[0].reason, reason);
};

feature('calendar: insert, patch, list, delete', async () => {
  const {events} = api('calendar', 'v3');
  const summary = unique('e');
  const at = time => ({dateTime: time, timeZone: 'Europe/Paris'});
  const requestBody = {summary, start: at('2033-07-01T10:00:00'), end: at('2033-07-01T11:00:00')};
  const made = await events.insert({calendarId: 'primary', requestBody});
  assert.equal(made.data.start.dateTime, '2033-07-01T08:00:00Z');
  const one = {calendarId: 'primary', eventId: made.data.id};
  const patched = await events.patch({...one, requestBody: {location: 'here'}});
  assert.equal(patched.data.summary, summary);
  const times = {timeMin: '2033-07-01T00:00:00Z', timeMax: '2033-07-02T00:00:00Z'};
  const listed = await events.list({calendarId: 'primary', q: summary, ...times});
  assert.deepEqual(listed.data.items.map(event => event.location), ['here']);
  await events.delete(one);
  await refused(410, 'deleted', events.delete(one));
});

feature('calendar: sync tokens', async () => {
  await api('calendar', 'v3').events.list({calendarId: 'primary', syncToken: 'x'});
});

feature('drive: create with media, get, list, delete', async () => {
  const {files} = api('drive', 'v3');
  const name = unique('f');
  const media = {mimeType: 'text/plain', body: Readable.from(['hello'])};
  // Media go to the root of the call's options, and not of the API's.
  const made = await files.create({requestBody: {name}, media, fields: 'id,size'}, {rootUrl});
  assert.equal(made.data.size, '5');
  const got = await files.get({fileId: made.data.id, alt: 'media'}, {responseType: 'text'});
  assert.equal(got.data, 'hello');
  const listed = await files.list({q: `name = '${name}'`, fields: 'files(id,mimeType)'});
  assert.deepEqual(listed.data, {files: [{id: made.data.id, mimeType: 'text/plain'}]});
  await files.delete({fileId: made.data.id});
  await refused(404, 'notFound', files.get({fileId: made.data.id}));
});

feature('drive: copy', async () => {
  const {files} = api('drive', 'v3');
  const made = await files.create({requestBody: {name: 'x'}});
  await files.copy({fileId: made.data.id, requestBody: {}});
});

feature('gmail: send, list and get', async () => {
  const word = unique('m');
  const raw = Buffer.from(`To: bob@example.com\r\nSubject: ${word}\r\n\r\nhello`).toString('base64url');
  await api('gmail', 'v1').users.messages.send({userId: 'me', requestBody: {raw}});
  const {messages} = api('gmail', 'v1', 1).users;
  const found = await messages.list({userId: 'me', q: word, labelIds: ['INBOX', 'UNREAD']});
  const got = await messages.get({userId: 'me', id: found.data.messages[0].id});
  assert.equal(Buffer.from(got.data.payload.body.data, 'base64url').toString(), 'hello');
});

feature('sheets: create, append, get', async () => {
  const {spreadsheets} = api('sheets', 'v4');
  const {data} = await spreadsheets.create({requestBody: {properties: {title: 't'}}});
  const {spreadsheetId} = data;
  const how = {spreadsheetId, range: 'Sheet1', valueInputOption: 'USER_ENTERED'};
  for (const values of [[['a', '1']], [['b', '2']]]) {
    await spreadsheets.values.append({...how, requestBody: {values}});
  }
  const got = await spreadsheets.values.get({
    spreadsheetId, range: 'A1:B2', valueRenderOption: 'UNFORMATTED_VALUE',
  });
  assert.deepEqual(got.data.values, [['a', 1], ['b', 2]]);
});

feature('tasks: insert and list', async () => {
  const {tasks} = api('tasks', 'v1');
  const tasklist = unique('l');
  await tasks.insert({tasklist, requestBody: {title: 'a'}});
  const listed = await tasks.list({tasklist});
  assert.deepEqual(listed.data.items.map(task => task.title), ['a']);
});

run();
