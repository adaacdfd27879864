"""The desk: pages for people, over actions/ and reporting/. They work without JavaScript."""
