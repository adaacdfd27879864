"""What Django's own settings would be, and the two that matter for e-mail."""

import os
from urllib.parse import unquote, urlsplit

# Every send_mail of the project: in the transaction that is open, and sent once it has committed.
EMAIL_BACKEND = 'mail_outbox.django.EmailBackend'
MAIL_OUTBOX = {'DATABASE': 'default', 'WAKE': 'notify'}

_database = urlsplit(os.environ['DATABASE_URL'])
DATABASES = {
    'default': {
        'ENGINE': 'django.db.backends.postgresql',
        'NAME': _database.path.removeprefix('/'),
        'USER': unquote(_database.username or ''),
        'PASSWORD': unquote(_database.password or ''),
        'HOST': _database.hostname,
        'PORT': _database.port,
    }
}
SECRET_KEY = 'only for this example'  # noqa: S105 - nothing is signed
DEBUG = True
ALLOWED_HOSTS = ['localhost', '127.0.0.1']
ROOT_URLCONF = 'shop.urls'
INSTALLED_APPS: list[str] = []
USE_TZ = True
