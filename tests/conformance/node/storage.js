// Cloud Storage as Google's client for Node offers it; STORAGE_EMULATOR_HOST says where.
'use strict';

const assert = require('assert/strict');
const fs = require('fs/promises');
const os = require('os');
const path = require('path');
const {randomBytes} = require('crypto');
const {pipeline} = require('stream/promises');
const {Readable} = require('stream');
const {Storage, TransferManager} = require('@google-cloud/storage');
const {feature, refuses, run, unique} = require('./features');

const apiEndpoint = process.env.STORAGE_EMULATOR_HOST;
const options = {projectId: 'conformance', retryOptions: {maxRetries: 1}};
// With the variable set, the client leaves /storage/v1 out of every path.
const bare = new Storage(options);
delete process.env.STORAGE_EMULATOR_HOST;
const client = new Storage({...options, apiEndpoint});

async function fill(...names) {
  const [bucket] = await client.createBucket(unique('b'));
  for (const name of names) await bucket.file(name).save(name, {resumable: false});
  return bucket;
}

const names = files => files.map(file => file.name);

feature('bucket: create, exists, delete', async () => {
  const bucket = await fill();
  assert.deepEqual(await bucket.exists(), [true]);
  await bucket.delete();
  assert.deepEqual(await bucket.exists(), [false]);
});

feature('STORAGE_EMULATOR_HOST alone', async () => {
  const [bucket] = await bare.createBucket(unique('b'));
  await bucket.file('o').save('abc', {resumable: false});
  assert.equal((await bucket.file('o').download())[0].toString(), 'abc');
});

feature('bucket: settings by setMetadata', async () => {
  const bucket = await fill();
  await bucket.setLabels({a: '1'});
  await bucket.setMetadata({versioning: {enabled: true}, cors: [{origin: ['*'], method: ['GET']}]});
  const [found] = await bucket.getMetadata();
  assert.deepEqual([found.labels, found.versioning], [{a: '1'}, {enabled: true}]);
  assert.deepEqual(found.cors, [{origin: ['*'], method: ['GET']}]);
});

feature('bucket: lifecycle rules', async () => {
  const bucket = await fill();
  await bucket.addLifecycleRule({action: {type: 'Delete'}, condition: {age: 30}});
  const [found] = await bucket.getMetadata();
  assert.deepEqual(found.lifecycle.rule, [{action: {type: 'Delete'}, condition: {age: 30}}]);
});

feature('bucket: storage class', async () => {
  const [bucket] = await client.createBucket(unique('b'), {nearline: true, location: 'EU'});
  const [found] = await bucket.getMetadata();
  assert.deepEqual([found.storageClass, found.location], ['NEARLINE', 'EU']);
});

feature('bucket: list', async () => {
  const bucket = await fill();
  const [found] = await client.getBuckets({prefix: bucket.name});
  assert.deepEqual(names(found), [bucket.name]);
});

feature('bucket: IAM', async () => {
  const bucket = await fill();
  const [policy] = await bucket.iam.getPolicy();
  policy.bindings.push({role: 'roles/storage.admin', members: ['user:ann@example.com']});
  await bucket.iam.setPolicy(policy);
  assert.deepEqual((await bucket.iam.testPermissions('storage.objects.get'))[0],
    {'storage.objects.get': true});
});

feature('file: save and download in one request', async () => {
  const file = (await fill()).file('o');
  await file.save('abc', {resumable: false, validation: 'md5', contentType: 'text/plain'});
  assert.equal((await file.download())[0].toString(), 'abc');
  assert.equal((await file.getMetadata())[0].contentType, 'text/plain');
});

feature('file: save in a session', async () => {
  const file = (await fill()).file('o');
  const content = randomBytes(700_000);
  await file.save(content, {resumable: true, chunkSize: 256 * 1024});
  assert.ok((await file.download())[0].equals(content));
});

feature('file: streams', async () => {
  const file = (await fill()).file('o');
  await pipeline(Readable.from(['a', 'b', 'c']), file.createWriteStream({resumable: false}));
  const parts = [];
  for await (const part of file.createReadStream({start: 1, end: 2})) parts.push(part);
  assert.equal(Buffer.concat(parts).toString(), 'bc');
});

feature('file: upload and download by path', async () => {
  const bucket = await fill();
  const folder = await fs.mkdtemp(path.join(os.tmpdir(), 'conformance-'));
  try {
    await fs.writeFile(path.join(folder, 'a.txt'), 'abc');
    await bucket.upload(path.join(folder, 'a.txt'));
    await bucket.file('a.txt').download({destination: path.join(folder, 'b.txt')});
    assert.equal(await fs.readFile(path.join(folder, 'b.txt'), 'utf8'), 'abc');
  } finally {
    await fs.rm(folder, {recursive: true});
  }
});

feature('file: checksums verified on the way down', async () => {
  const file = (await fill('o')).file('o');
  assert.equal((await file.download({validation: 'md5'}))[0].toString(), 'o');
  assert.equal((await file.download({validation: 'crc32c'}))[0].toString(), 'o');
});

feature('file: compressed on the way up', async () => {
  const file = (await fill()).file('o');
  await file.save('abc', {gzip: true, resumable: false});
  assert.equal((await file.download())[0].toString(), 'abc');
  assert.equal((await file.getMetadata())[0].contentEncoding, 'gzip');
});

feature('file: custom metadata by setMetadata', async () => {
  const file = (await fill('o')).file('o');
  await file.setMetadata({metadata: {a: '1'}, cacheControl: 'no-store'});
  const [found] = await file.getMetadata();
  assert.deepEqual([found.metadata, found.cacheControl], [{a: '1'}, 'no-store']);
});

feature('file: generation preconditions', async () => {
  const file = (await fill()).file('o');
  const options = {resumable: false, preconditionOpts: {ifGenerationMatch: 0}};
  await file.save('a', options);
  await refuses(412, () => file.save('b', options));
  const generation = Number((await file.getMetadata())[0].generation);
  await file.delete({ifGenerationMatch: generation});
});

feature('file: copy, rename, move', async () => {
  const bucket = await fill('a');
  await bucket.file('a').copy(bucket.file('b'));
  await bucket.file('b').rename('c');
  assert.deepEqual(names((await bucket.getFiles())[0]), ['a', 'c']);
});

feature('file: combine', async () => {
  const bucket = await fill('a', 'b');
  await bucket.combine(['a', 'b'], 'whole');
  assert.equal((await bucket.file('whole').download())[0].toString(), 'ab');
});

feature('file: storage class', async () => {
  const bucket = await fill('a');
  await bucket.file('a').setStorageClass('nearline');
  assert.equal((await bucket.file('a').getMetadata())[0].storageClass, 'NEARLINE');
});

feature('file: versions', async () => {
  const [bucket] = await client.createBucket(unique('b'), {versioning: {enabled: true}});
  await bucket.file('o').save('1', {resumable: false});
  await bucket.file('o').save('2', {resumable: false});
  const [files] = await bucket.getFiles({versions: true});
  assert.equal(files.length, 2);
  const old = bucket.file('o', {generation: files[0].metadata.generation});
  assert.equal((await old.download())[0].toString(), '1');
});

feature('list: prefix, delimiter, glob, pages', async () => {
  const bucket = await fill('a/1', 'a/2', 'b');
  const [, , answer] = await bucket.getFiles({delimiter: '/', autoPaginate: false});
  assert.deepEqual(answer.prefixes, ['a/']);
  assert.deepEqual(names((await bucket.getFiles({matchGlob: '**2'}))[0]), ['a/2']);
  const [page, next] = await bucket.getFiles({maxResults: 2, autoPaginate: false});
  assert.equal(page.length, 2);
  assert.deepEqual(names((await bucket.getFiles(next))[0]), ['b']);
});

feature('list: deleteFiles', async () => {
  const bucket = await fill('a/1', 'a/2', 'b');
  await bucket.deleteFiles({prefix: 'a/'});
  assert.deepEqual(names((await bucket.getFiles())[0]), ['b']);
});

feature('file: public', async () => {
  const file = (await fill('o')).file('o');
  await file.makePublic();
  assert.deepEqual(await file.isPublic(), [true]);
});

feature('transfer manager: a file down in parallel', async () => {
  const bucket = await fill();
  const content = randomBytes(600_000);
  await bucket.file('o').save(content, {resumable: false});
  const manager = new TransferManager(bucket);
  const options = {chunkSizeBytes: 256 * 1024, noReturnData: false};
  const folder = await fs.mkdtemp(path.join(os.tmpdir(), 'conformance-'));
  try {
    options.destination = path.join(folder, 'o');
    await manager.downloadFileInChunks('o', options);
    assert.ok((await fs.readFile(options.destination)).equals(content));
  } finally {
    await fs.rm(folder, {recursive: true});
  }
});

feature('notifications: create', async () => {
  await (await fill()).createNotification('projects/conformance/topics/jobs');
});

run();
