"""`python -m glcic_jax` is `glcic`."""

from glcic_jax.commands.main import main

if __name__ == "__main__":
    main()
