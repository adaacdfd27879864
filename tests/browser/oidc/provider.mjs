// An OIDC provider for tests: who logs in as NAME is in the groups that GROUPS gives to NAME.
import { Provider } from 'oidc-provider';

const { PORT, DESK, GROUPS } = process.env;
const groups = JSON.parse(GROUPS);
const provider = new Provider(`http://127.0.0.1:${PORT}`, {
  clients: [{
    client_id: 'desk',
    client_secret: 'a secret of the desk',
    redirect_uris: [`${DESK}/login/oidc/back`],
    post_logout_redirect_uris: [`${DESK}/login`],
  }],
  claims: { openid: ['sub', 'groups'], profile: ['preferred_username'], email: ['email'] },
  conformIdTokenClaims: true, // claims of scopes are in the user info alone, as with most providers
  pkce: { required: () => true },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, preferred_username: id, email: `${id}@example.com`, groups: groups[id] ?? [] }),
  }),
  cookies: { keys: ['of a test'] },
});
provider.listen(Number(PORT), '127.0.0.1', () => console.log('listening'));
