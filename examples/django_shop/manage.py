"""A Django project whose e-mail goes through the outbox.

pip install '.[django,psycopg]' 'psycopg[binary]'
export DATABASE_URL=postgresql://...
cd examples/django_shop
python manage.py sendtestemail anna@example.com
python manage.py runserver

curl -X POST 'localhost:8000/orders?address=anna@example.com'
"""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == '__main__':
    os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')
    execute_from_command_line(sys.argv)
