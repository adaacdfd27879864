"""How an e-mail is found by its recipient: by an index, but for those with several."""

# The address of the one recipient, with or without a name before it. The index
# outbound_emails_recipient has it.
RECIPIENT_KEY = "lower(COALESCE(substring(recipient FROM '<([^<>]+)>'), recipient))"
# The others are few, and read one by one: the index outbound_emails_several has their ids.
IS_ONE_OF_SEVERAL = "({cc} IS NOT NULL OR {bcc} IS NOT NULL OR recipient LIKE '%,%')"
