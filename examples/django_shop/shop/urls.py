"""One path: somebody orders, and gets a receipt."""

from django.core.mail import EmailMultiAlternatives
from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST


@csrf_exempt
@require_POST
def orders(request: HttpRequest) -> JsonResponse:
    """Take an order."""
    receipt = EmailMultiAlternatives(
        'Your receipt',
        'Thank you.',
        to=[request.GET['address']],
        headers={'List-Unsubscribe': '<https://shop.example/unsubscribe>'},
    )
    receipt.attach_alternative('<p>Thank you.</p>', 'text/html')
    receipt.attach('receipt.csv', 'tea,3\n', 'text/csv')
    receipt.outbox = {'priority': 'high', 'email_type': 'receipt'}
    try:
        with transaction.atomic():
            # ... the order's own rows, in the same transaction ...
            receipt.send()
    except ValueError as error:  # an address that is none
        return JsonResponse({'detail': str(error)}, status=422)
    return JsonResponse({'email_id': receipt.outbox_id}, status=201)


urlpatterns = [path('orders', orders)]
