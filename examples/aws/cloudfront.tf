# Terraform: a private bucket for tiles, and CloudFront in front of it; what cloudfront.yaml is for CloudFormation.
#   oar-tiles seed --output s3://BUCKET/facilities/ --public-url https://DOMAIN/facilities

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "bucket" {
  type        = string
  description = "The bucket's name"
}

resource "aws_s3_bucket" "tiles" {
  bucket = var.bucket
}

resource "aws_s3_bucket_public_access_block" "tiles" {
  bucket                  = aws_s3_bucket.tiles.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

# Parts of an archive whose upload was cut off cost money until somebody removes them.
resource "aws_s3_bucket_lifecycle_configuration" "tiles" {
  bucket = aws_s3_bucket.tiles.id

  rule {
    id     = "parts-of-uploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }
}

data "aws_iam_policy_document" "tiles" {
  statement {
    sid       = "TilesForCloudFront"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.tiles.arn}/*"]

    principals {
      type        = "Service"
      identifiers = ["cloudfront.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "AWS:SourceArn"
      values   = [aws_cloudfront_distribution.tiles.arn]
    }
  }

  # Without it S3 answers 403 for a tile that is not there, which CloudFront could not tell from a refusal.
  statement {
    sid       = "MissingTilesAreMissing"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.tiles.arn]

    principals {
      type        = "Service"
      identifiers = ["cloudfront.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "AWS:SourceArn"
      values   = [aws_cloudfront_distribution.tiles.arn]
    }
  }

  statement {
    sid       = "NotesForNobodyElse"
    effect    = "Deny"
    actions   = ["s3:GetObject"]
    resources = ["${aws_s3_bucket.tiles.arn}/*/.oar-tiles/*"]

    principals {
      type        = "Service"
      identifiers = ["cloudfront.amazonaws.com"]
    }
  }
}

resource "aws_s3_bucket_policy" "tiles" {
  bucket = aws_s3_bucket.tiles.id
  policy = data.aws_iam_policy_document.tiles.json
}

resource "aws_cloudfront_origin_access_control" "tiles" {
  name                              = "${var.bucket}-tiles"
  origin_access_control_origin_type = "s3"
  signing_behavior                  = "always"
  signing_protocol                  = "sigv4"
}

# Tiles lie packed in the bucket and are sent as they are; parameters, headers and cookies mean nothing to them. Queries are neither in the
# key nor forwarded: both or neither. Before oar-tiles serve with live parameters, name the parameters here, and add no origin request policy
# that forwards more, or one client's ?country=LI becomes everybody's tile; such copies are purged by tag only.
resource "aws_cloudfront_cache_policy" "tiles" {
  name        = "${var.bucket}-tiles"
  min_ttl     = 0
  default_ttl = 86400
  max_ttl     = 31536000

  parameters_in_cache_key_and_forwarded_to_origin {
    cookies_config {
      cookie_behavior = "none"
    }

    headers_config {
      header_behavior = "none"
    }

    query_strings_config {
      query_string_behavior = "none"
    }
  }
}

resource "aws_cloudfront_response_headers_policy" "tiles" {
  name = "${var.bucket}-tiles"

  cors_config {
    access_control_allow_credentials = false
    access_control_max_age_sec       = 86400
    origin_override                  = true

    access_control_allow_headers {
      items = ["*"]
    }

    access_control_allow_methods {
      items = ["GET", "HEAD"]
    }

    access_control_allow_origins {
      items = ["*"]
    }
  }
}

resource "aws_cloudfront_distribution" "tiles" {
  enabled         = true
  http_version    = "http2and3"
  is_ipv6_enabled = true
  price_class     = "PriceClass_100"

  origin {
    origin_id                = "tiles"
    domain_name              = aws_s3_bucket.tiles.bucket_regional_domain_name
    origin_access_control_id = aws_cloudfront_origin_access_control.tiles.id
  }

  default_cache_behavior {
    target_origin_id           = "tiles"
    viewer_protocol_policy     = "redirect-to-https"
    allowed_methods            = ["GET", "HEAD"]
    cached_methods             = ["GET", "HEAD"]
    compress                   = false
    cache_policy_id            = aws_cloudfront_cache_policy.tiles.id
    response_headers_policy_id = aws_cloudfront_response_headers_policy.tiles.id
  }

  # Where no tile is, there is nothing to draw.
  custom_error_response {
    error_code            = 404
    error_caching_min_ttl = 3600
  }

  restrictions {
    geo_restriction {
      restriction_type = "none"
    }
  }

  viewer_certificate {
    cloudfront_default_certificate = true
  }
}

output "domain" {
  value = aws_cloudfront_distribution.tiles.domain_name
}

# For [[purge]]: provider = "cloudfront", distribution = this.
output "distribution_id" {
  value = aws_cloudfront_distribution.tiles.id
}
