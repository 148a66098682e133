const functions = require('@google-cloud/functions-framework');
const {ExternalAccountAuthorizedUserClient} = require('google-auth-library');
const {google} = require('googleapis');

// The local stack's stand-in for Google's APIs, where there is one.
const rootUrl = `${process.env.FLEET_API_ROOT ?? 'https://tasks.googleapis.com'}/`;

functions.http('greet', async (req, res) => {
  const job = req.body;
  const auth = new ExternalAccountAuthorizedUserClient(job.credentials);
  const api = google.tasks({version: 'v1', auth, rootUrl});
  try {
    const task = {tasklist: '@default', requestBody: {title: job.params.title}};
    const made = await api.tasks.insert(task);
    res.json({task: made.data.id});
  } catch (error) {
    refused(error, res);
  }
});

function refused(error, res) {
  const {response} = error;
  // What the token endpoint said is no API's answer: an exception tells it best.
  if (!response?.data?.error?.code) throw error;
  for (const name of ['retry-after', 'www-authenticate']) {
    if (response.headers.has(name)) res.set(name, response.headers.get(name));
  }
  res.status(response.status).json(response.data);
}
