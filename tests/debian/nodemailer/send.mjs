// An application's mailer: one connection that is kept, for several messages.
import nodemailer from 'nodemailer';

const transport = nodemailer.createTransport({
  host: '127.0.0.1',
  port: Number(process.env.PORT),
  pool: true,
  maxConnections: 1,
  auth: process.env.TOKEN ? { user: 'shop', pass: process.env.TOKEN } : undefined,
});
for (let n = 0; n < 3; n += 1) {
  const sent = await transport.sendMail({
    from: 'Shop <noreply@example.com>',
    to: 'Bücher <anna@example.com>',
    bcc: 'hidden@example.com',
    subject: `Grüße ${n}`,
    text: '.dot\n..two\nGrüße\n.\nend',
    html: '<p>Grüße</p>',
    attachments: [{ filename: 'ä.bin', content: Buffer.alloc(200_000, 7) }],
  });
  console.log(sent.response);
}
transport.close();
