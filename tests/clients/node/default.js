// Says who it acts as by Google's default credentials.
const {GoogleAuth} = require('google-auth-library');

async function main() {
  const client = await new GoogleAuth().getClient();
  const answer = await client.request({url: process.env.USERINFO});
  console.log(answer.data.sub);
}

main();
