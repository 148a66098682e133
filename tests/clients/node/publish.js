const {PubSub} = require('@google-cloud/pubsub');

const client = new PubSub({projectId: process.env.GOOGLE_CLOUD_PROJECT});
const topic = client.topic('jobs', {messageOrdering: true});
const job = {user: 'user-1', kind: 'profile'};
topic.publishMessage({json: job, orderingKey: job.user}).then(() => client.close());
