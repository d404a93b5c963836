"""Signing in: whoever has an account may, also without a place in the admin; too many attempts wait."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import ValidationError
from unfold.forms import AuthenticationForm

from gateway import throttle

DOOR = "account"


class SignInForm(AuthenticationForm):
    """Says the same of a wrong name and a wrong password, and during a pause also of the right ones."""

    seconds_to_wait = 0

    def clean(self) -> dict[str, Any]:
        address = self.request.META.get("REMOTE_ADDR", "")
        name = self.cleaned_data.get("username", "")
        if not name or not self.cleaned_data.get("password"):
            return dict(self.cleaned_data)
        self.seconds_to_wait = throttle.seconds_to_wait(DOOR, address, name)
        if self.seconds_to_wait:
            raise ValidationError(throttle.refusal(self.seconds_to_wait), code="throttled")
        cleaned: dict[str, Any] = super().clean()
        if self.get_user() is not None:
            throttle.succeeded(DOOR, address, name)
        return cleaned

    def confirm_login_allowed(self, user: AbstractBaseUser) -> None:
        """Django's admin would ask for staff; a developer without it goes to /me."""
