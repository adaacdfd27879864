// What an application does with Resend's SDK for Node; prints what it was answered.
import { Resend } from 'resend';

const resend = new Resend();
const hello = { from: 'Shop <noreply@example.com>', to: 'anna@example.com', subject: 'Hello', text: 'Hello.' };
const told = {};

told.sent = await resend.emails.send({
  ...hello,
  to: ['anna@example.com', 'Ben <ben@example.com>'],
  cc: 'carl@example.com',
  bcc: ['dora@example.com'],
  replyTo: 'support@example.com',
  html: '<p>Hello <img src="cid:logo"></p>',
  headers: { 'X-Order': '12' },
  tags: [{ name: 'campaign', value: 'may' }],
  attachments: [
    { filename: 'a.txt', content: Buffer.from('from node') },
    { filename: 'logo.png', content: new Uint8Array([137, 80, 78, 71]), contentType: 'image/png', contentId: 'logo' },
  ],
});
// The SDK drops what it does not know: our own fields go past it, by their own names.
told.own = await resend.post('/emails', { ...hello, priority: 'high', email_type: 'receipt' });
told.batch = await resend.batch.send([hello, { ...hello, subject: 'Second' }]);
told.strict = await resend.batch.send([hello, { ...hello, to: 'nobody' }]);
told.permissive = await resend.batch.send([hello, { ...hello, to: 'nobody' }], { batchValidation: 'permissive' });
told.first = await resend.emails.send(hello, { idempotencyKey: 'node/1' });
told.again = await resend.emails.send(hello, { idempotencyKey: 'node/1' });
told.conflict = await resend.emails.send({ ...hello, subject: 'Other' }, { idempotencyKey: 'node/1' });
told.scheduled = await resend.emails.send({ ...hello, scheduledAt: 'in 1 hour' });
const later = new Date(Date.now() + 7200_000).toISOString();
told.updated = await resend.emails.update({ id: told.scheduled.data.id, scheduledAt: later });
told.shown = await resend.emails.get(told.scheduled.data.id);
told.cancelled = await resend.emails.cancel(told.scheduled.data.id);
told.late = await resend.emails.cancel(told.scheduled.data.id);
told.listed = await resend.emails.list({ limit: 2 });
told.next = await resend.emails.list({ limit: 2, after: told.listed.data.data[1].id });
told.invalid = await resend.emails.send({ ...hello, to: 'nobody' });
told.missing = await resend.emails.send({ ...hello, subject: undefined });
told.elsewhere = await resend.domains.list();
told.unknown = await resend.emails.get('999999');
told.stranger = await new Resend('re_123').emails.send(hello);
told.fetched = await resend.emails.send({ ...hello, attachments: [{ path: 'http://127.0.0.1/x', filename: 'x' }] });
console.log(JSON.stringify({ ...told, later }));
