"""Checks of the doctor that read the settings themselves."""
